/* A .npy file from anyone, as values to set and as a direction. Input: which use, then the file. */
#include "program.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const uses[][3] = {
        {"--set", "L1.resid_mid=x.npy", NULL}, {"--set", "L0H1=x.npy", NULL},
        {"--set", "L*.mlp_out@1=x.npy", NULL}, {"--set", "L0.scores=x.npy", NULL},
        {"--set", "embed@1-2=x.npy", NULL}, {"--steer", "L1.resid_mid=2", "--direction"},
        {"--project", "L0H1.q", "--direction"}, {"--steer", "L*.mlp_post=2", "--direction"},
    };
    if (size < 1) return -1;
    const char *const *use = uses[data[0] % 8];
    put_file("x.npy", data + 1, size - 1);
    run_program((const char *[]){"--tokens", "33 34 35", "--threads", "1", "--json", use[0], use[1],
                                 use[2], use[2] ? "x.npy" : NULL, NULL}, NULL, 0);
    return 0;
}
