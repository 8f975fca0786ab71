/* published_model.c - a GPT-2 of 12 layers of 12 heads and GPT-2's vocabulary, small, with random
 * weights: what tests/published_shape.sh compares the published figures with.
 *
 *     published_model FILE */
#include "random_model.h"

int main(int argc, char **argv)
{
    const RandomModel shape = {.n_layer = 12, .n_head = 12, .d_head = 2, .n_ctx = 1024,
                               .n_vocab = 50257, .vocab = "gpt2"};
    return argc == 2 ? -random_model_write(argv[1], &shape) : 2;
}
