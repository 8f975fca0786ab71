# make              the program ./mi
# make test         every test; needs only a C compiler and make
# make labs         the programs of labs/, what is built on mi.h: build/labs/ablate and others
# make assignment   what students get: labs/README.md; STUDENT=42 for a model of their own
# make mystery STUDENT=42   a model with one part damaged; prints which, for the teacher
# make grade SUBMISSION=folder    points of each exercise, and why; of a folder of folders, a table
# make test-grade   the grader: wrong solutions, stubs, the reference, assignments
# make check-docs   the commands of README.md, walkthrough.md, labs/README.md print what is there
# make test-arm     NEON builds under qemu-aarch64 give the bits of AVX2 builds
# make fuzz         search for inputs that break it (clang); FUZZ_SECONDS=60 each, FUZZ="weights"
# make bench        how fast it is, as a share of what this machine can do
# make published    after make gpt2: published figures beside ours; MODEL=FILE, FIGURES=words
# make gpt2         download the real GPT-2 (124M), 548 MB
# make clean
#
# make CC=clang, make OPENMP= (without threads), make ARCH= (for any processor of this kind),
# make BUILD=folder (another place for the tests and the program that they use)

CC      ?= cc
ARCH    ?= -march=native
CFLAGS  ?= -O3
OPENMP  ?= $(shell printf '\043include <omp.h>\nint main(void){return 0;}\n' | \
             $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)
BUILD   ?= build
NEAR     = $(shell $(CC) $(ARCH) -dM -E -x c /dev/null | grep -qE '__FMA__|__ARM_FEATURE_FMA' || \
             echo MI_TEST_NEAR=1)
FLAGS    = $(CFLAGS) $(ARCH) $(OPENMP) -Wall -Wextra -std=gnu11 $(if $(OPENMP),,-Wno-unknown-pragmas)

# What the others rest on comes first: then the first message is where to begin.
FIRST    = $(BUILD)/test_kernels $(BUILD)/test_tokens
TESTS    = $(FIRST) $(filter-out $(FIRST),$(patsubst tests/%.c,$(BUILD)/%,\
             $(wildcard tests/test_*.c)))
SCRIPTS ?= $(wildcard tests/test_*.sh)
WHITEBOX = $(shell grep -l 'include "../mi.c"' tests/test_*.c)

mi: mi.c mi.h
	$(CC) $(FLAGS) mi.c -o $@ -lm

$(BUILD)/mi: mi.c mi.h tokenizer.bin tiny.safetensors wild.safetensors
	@mkdir -p $(BUILD)
	$(CC) $(FLAGS) mi.c -o $@ -lm
	@cp tokenizer.bin tiny.safetensors wild.safetensors $(BUILD)

$(BUILD)/mi.o: mi.c mi.h
	@mkdir -p $(BUILD)
	$(CC) $(FLAGS) -DMI_NO_MAIN -c mi.c -o $@

$(BUILD)/test_sae: $(wildcard labs/*.[ch])
$(BUILD)/test_%: tests/test_%.c $(wildcard tests/*.h) mi.c mi.h $(BUILD)/mi.o
	$(CC) $(FLAGS) -DMI_NO_MAIN -I. $< $(if $(filter $<,$(WHITEBOX)),,$(BUILD)/mi.o) -o $@ -lm

LABS     = $(patsubst labs/%.c,$(BUILD)/labs/%,$(wildcard labs/*.c))

$(BUILD)/labs/%: labs/%.c $(wildcard labs/*.h) mi.h $(BUILD)/mi.o
	@mkdir -p $(BUILD)/labs
	$(CC) $(FLAGS) -I. $< $(BUILD)/mi.o -o $@ -lm

labs: $(LABS)

# The course: labs/README.md. Which exercises and findings an assignment has, of those that
# labs/course/exercises.txt and findings.tsv list:
EXERCISES ?= softmax layernorm scores mix gelu mlp apply_edit lens sample ablate induction patch dla path gradient
FINDINGS  ?= needed falls previous neuron carrier many
ASSIGNMENT ?= assignment
MYSTERY   ?= mystery
COURSE     = $(BUILD)/course
DRIVER     = $(CC) -O0 -g $(ARCH) -std=gnu11 -w -shared -fPIC -I. -Ilabs

$(COURSE)/%: labs/course/%.c labs/course/drive.h labs/lab.h $(BUILD)/mi.o
	@mkdir -p $(COURSE)
	$(CC) $(FLAGS) -I. $< $(if $(filter %permute,$@),$(BUILD)/mi.o) -o $@ -ldl -lm

$(COURSE)/mi.o: mi.c mi.h
	@mkdir -p $(COURSE)
	$(CC) -O1 $(ARCH) -std=gnu11 -w -fPIC -DMI_NO_MAIN -c mi.c -o $@

$(COURSE)/engine.so: $(wildcard labs/course/*.[ch]) mi.c mi.h
	@mkdir -p $(COURSE)
	$(DRIVER) -DWRONG='"wrong_engine.h"' labs/course/drive_engine.c -o $@ -lm

$(COURSE)/labs.so: $(wildcard labs/*.[ch] labs/course/*.[ch]) $(COURSE)/mi.o
	$(DRIVER) -DWRONG='"wrong_labs.h"' labs/course/drive_labs.c $(COURSE)/mi.o -o $@ -lm

COURSE_TOOLS = $(addprefix $(COURSE)/,cut check permute engine.so labs.so)

assignment: $(COURSE_TOOLS)
	@BUILD=$(BUILD) CC='$(CC)' STUDENT='$(STUDENT)' FINDINGS='$(FINDINGS)' sh labs/course/assign.sh '$(ASSIGNMENT)' $(EXERCISES)

mystery: $(COURSE)/permute
	@sh labs/course/mystery.sh $(COURSE)/permute '$(MYSTERY)' '$(STUDENT)'

# The numbers that are right, and those of known mistakes: other ones than a student has.
SEED ?= 20
ENGINE_EXERCISES = $(shell awk '$$3 == "mi.c" { print $$1 }' labs/course/exercises.txt)
LAB_EXERCISES    = $(shell awk '$$3 ~ /^labs/ { print $$1 }' labs/course/exercises.txt)

$(COURSE)/engine.table: $(COURSE)/check $(COURSE)/engine.so
	@cp tests/golden/odd7.safetensors $(COURSE)/small.safetensors
	@cd $(COURSE) && ./check table ./engine.so $(SEED) $(ENGINE_EXERCISES) > engine.table

$(COURSE)/labs.table: $(COURSE)/check $(COURSE)/labs.so
	@$(COURSE)/check table $(COURSE)/labs.so $(SEED) $(LAB_EXERCISES) > $@

GRADER = $(COURSE_TOOLS) $(COURSE)/engine.table $(COURSE)/labs.table $(BUILD)/mi

grade: $(GRADER)
	@BUILD=$(BUILD) CC='$(CC)' ARCH='$(ARCH)' EXERCISES='$(EXERCISES)' FINDINGS='$(FINDINGS)' \
	    sh labs/course/grade.sh '$(SUBMISSION)'

test-grade: $(GRADER)
	@MI=$(BUILD)/mi BUILD=$(BUILD) CC='$(CC)' MAKE='$(MAKE)' sh tests/grade.sh

test: $(BUILD)/mi $(TESTS) $(LABS)
	@MI=$(BUILD)/mi CC='$(CC)' $(NEAR) sh tests/run.sh $(TESTS) $(SCRIPTS)

test-arm:
	@CC='$(CC)' sh tests/test_builds.sh arm

$(BUILD)/bench: tests/bench.c tests/random_model.h mi.c mi.h
	@mkdir -p $(BUILD)
	$(CC) $(FLAGS) -DMI_NO_MAIN -I. $< -o $@ -lm

bench: $(BUILD)/bench
	@GOMP_SPINCOUNT=1000 $(BUILD)/bench	# as mi itself

# Fuzzing, with clang: each harness of tests/fuzz for FUZZ_SECONDS, sanitizers on.
FUZZ         ?= weights tokenizer text edits npy table command foreign
FUZZ_SECONDS ?= 60
FUZZ_FLAGS    = -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
                -fsanitize-coverage-ignorelist=tests/fuzz/uncovered.txt \
                $(ARCH) -std=gnu11 -Wall -Wextra -Wno-unknown-pragmas -I.
FUZZ_PROGRAM  = npy table command
FUZZ_FAST     = -fsanitize-ignorelist=tests/fuzz/ignore.txt \
                -fsanitize-coverage-ignorelist=tests/fuzz/ignore.txt

$(BUILD)/fuzz/library.o: mi.c mi.h tests/fuzz/uncovered.txt
	@mkdir -p $(BUILD)/fuzz
	clang $(FUZZ_FLAGS) -DMI_NO_MAIN -c mi.c -o $@

$(BUILD)/fuzz/program.o: mi.c mi.h tests/fuzz/program.c $(wildcard tests/fuzz/*.txt) \
                           $(wildcard tests/fuzz/*.h tests/*.h)
	@mkdir -p $(BUILD)/fuzz
	clang $(FUZZ_FLAGS) $(FUZZ_FAST) -DFUZZ_REDIRECT -include tests/fuzz/redirect.h -c mi.c \
	    -o $(BUILD)/fuzz/mi.o
	clang -O2 -g -std=gnu11 -Wall -Wextra -I. -c tests/fuzz/program.c -o $(BUILD)/fuzz/calls.o
	clang -r $(BUILD)/fuzz/mi.o $(BUILD)/fuzz/calls.o -o $@

$(BUILD)/fuzz/fuzz_%: tests/fuzz/%.c $(wildcard tests/fuzz/*.h tests/*.h) $(BUILD)/fuzz/library.o \
                      $(BUILD)/fuzz/program.o
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer $< \
	    $(BUILD)/fuzz/$(if $(filter $*,$(FUZZ_PROGRAM)),program,library).o -o $@ -lm

fuzz: $(FUZZ:%=$(BUILD)/fuzz/fuzz_%)
	@sh tests/fuzz/run.sh $(BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZ)

check-docs: $(BUILD)/mi $(LABS)
	@MI=$(BUILD)/mi $(NEAR) sh tests/test_docs.sh

# The real weights, as OpenAI published them, from Hugging Face. An interrupted download goes on
# where it stopped; what arrives is checked before it gets its name.
GPT2_REVISION = 607a30d783dfa663caf39e06633721c8d4cfcd7e
GPT2_URL     ?= https://huggingface.co/openai-community/gpt2/resolve/$(GPT2_REVISION)/model.safetensors
GPT2_SHA256  ?= 248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707
GPT2_BYTES   ?= 548105171

published: $(BUILD)/mi
	@MI=$(BUILD)/mi sh tests/published.sh $(or $(MODEL),gpt2.safetensors) '$(FIGURES)'

gpt2: gpt2.safetensors
	@echo 'Now: ./mi -m gpt2.safetensors --ablate L9H9'

gpt2.safetensors:
	@sh train/fetch.sh '$(GPT2_URL)' $(GPT2_BYTES) $(GPT2_SHA256) $@

clean:
	rm -rf mi build build-*

.PHONY: test test-arm test-grade published labs assignment mystery grade bench fuzz check-docs gpt2 clean
