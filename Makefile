# make              the program ./mi
# make test         every test; needs only a C compiler and make
# make clean
#
# make CC=clang, make OPENMP= (without threads), make ARCH= (for any processor of this kind),
# make BUILD=folder (another place for the tests and the program that they use)

CC      ?= cc
ARCH    ?= -march=native
CFLAGS  ?= -O3
OPENMP  ?= $(shell echo 'int main(void){return 0;}' | \
             $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)
BUILD   ?= build
FLAGS    = $(CFLAGS) $(ARCH) $(OPENMP) -Wall -Wextra -std=gnu11 $(if $(OPENMP),,-Wno-unknown-pragmas)

TESTS    = $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/test_*.c))
WHITEBOX = $(shell grep -l 'include "../mi.c"' tests/test_*.c)

mi: mi.c mi.h
	$(CC) $(FLAGS) mi.c -o $@ -lm

$(BUILD)/mi: mi.c mi.h tokenizer.bin tiny.safetensors
	@mkdir -p $(BUILD)
	$(CC) $(FLAGS) mi.c -o $@ -lm
	@cp tokenizer.bin tiny.safetensors $(BUILD)

$(BUILD)/mi.o: mi.c mi.h
	@mkdir -p $(BUILD)
	$(CC) $(FLAGS) -DMI_NO_MAIN -c mi.c -o $@

$(BUILD)/test_%: tests/test_%.c $(wildcard tests/*.h) mi.c mi.h $(BUILD)/mi.o
	$(CC) $(FLAGS) -DMI_NO_MAIN -I. $< $(if $(filter $<,$(WHITEBOX)),,$(BUILD)/mi.o) -o $@ -lm

test: $(BUILD)/mi $(TESTS)
	@MI=$(BUILD)/mi sh tests/run.sh $(TESTS) $(wildcard tests/test_*.sh)

clean:
	rm -rf mi build build-*

.PHONY: test clean
