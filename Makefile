# make              the program ./mi
# make test         everything that can be tested without network and without Python
# make clean
#
# make CC=clang, make OPENMP= (without threads), make ARCH= (for any machine of this kind)

CC      ?= cc
ARCH    ?= -march=native
CFLAGS  ?= -O3
WARN     = -Wall -Wextra -std=gnu11
OPENMP  ?= $(shell echo 'int main(void){return 0;}' | \
             $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)
BUILD   ?= build
FLAGS    = $(CFLAGS) $(ARCH) $(OPENMP) $(WARN)

TESTS    = $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
WHITEBOX = $(shell grep -l 'include "../mi.c"' tests/test_*.c)

mi: mi.c mi.h
	$(CC) $(FLAGS) mi.c -o $@ -lm

$(BUILD)/mi.o: mi.c mi.h
	@mkdir -p $(BUILD)
	$(CC) $(FLAGS) -DMI_NO_MAIN -c mi.c -o $@

$(BUILD)/%: tests/%.c $(wildcard tests/*.h) mi.c mi.h $(BUILD)/mi.o
	$(CC) $(FLAGS) -DMI_NO_MAIN -I. $< $(if $(filter $<,$(WHITEBOX)),,$(BUILD)/mi.o) -o $@ -lm

test: mi $(TESTS:%=$(BUILD)/%)
	@MI=./mi sh tests/run.sh $(TESTS:%=$(BUILD)/%) $(wildcard tests/test_*.sh)

clean:
	rm -rf mi build

.PHONY: test clean
