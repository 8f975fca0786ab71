/* A table for --data from anyone. Input: what is done with it, then the table. */
#include "program.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const uses[][5] = {
        {"--ablate", "L0H1"}, {"--ablate", "L0H1=mean"}, {"--patch", "L0.resid_mid@1"},
        {"--ablate", "heads", "--each"}, {"--patch", "L*.resid_pre@S", "--each"},
        {"--ablate", "L0H1@S=resample"}, {"--loss"}, {"--ablate", "L1.mlp_out@-1", "--tsv"},
    };
    if (size < 1) return -1;
    const char *const *use = uses[data[0] % 8], *name = data[0] & 8 ? "t.csv" : "t.tsv";
    const char *arguments[12] = {"--threads", "1", "--data", data[0] & 16 ? "-" : name};
    int n = 4;
    for (int i = 0; i < 5 && use[i]; i++) arguments[n++] = use[i];
    if (data[0] & 32) arguments[n++] = "--json";
    put_file(name, data + 1, size - 1);
    run_program(arguments, data + 1, data[0] & 16 ? size - 1 : 0);
    return 0;
}
