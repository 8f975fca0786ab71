#!/bin/sh
# Every command block of README.md, walkthrough.md and labs/README.md is run, its output compared; every
# function, site and option that they name must exist.
#
# A block is fenced with ```console; its commands are the lines that start with "$ ". What follows
# each is its output. To write the present outputs into the files: tests/test_docs.sh --update
# A command that needs a tool which is not here (jq, R, pandas, GNU parallel) stays as it is.
# MI_DOCS="labs/key/wild.md" tests/test_docs.sh   the same of other documents
root=$(cd "$(dirname "$0")/.." && pwd)
mi=$(cd "$(dirname "${MI:-./mi}")" && pwd)/$(basename "${MI:-./mi}")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# The commands see a folder that looks like the repository after make.
mkdir "$work/repo"
for name in tests train labs tokenizer.bin tiny.safetensors wild.safetensors mi.c mi.h; do
    ln -s "$root/$name" "$work/repo/$name"
done
ln -s "$mi" "$work/repo/mi"
mkdir "$work/repo/build"
ln -s "$(dirname "$mi")/labs" "$work/repo/build/labs"

missing=
for tool in jq Rscript parallel xargs; do
    command -v $tool >/dev/null 2>&1 || missing="$missing|$tool"
done
python3 -c 'import pandas' 2>/dev/null || missing="$missing|python3"
[ -z "$missing" ] || echo "not here, so not tried: $(echo "${missing#|}" | tr '|' ' ')"

render() {
    awk -v repo="$work/repo" -v missing="^(${missing#|})$" '
        function lacks_tool(line,    n, word, i, found) {
            n = split(line, word, " ")
            for (i = 1; i <= n; i++) if (word[i] ~ missing) found = 1
            return found
        }
        /^```/ { fence = !fence; console = fence && $0 == "```console" }
        console && /^\$ / {
            print
            if (lacks_tool($0)) { skip = 0; next }
            command = "cd " repo " && unset MI_MODEL MI && { " substr($0, 3) "\n} 2>&1 </dev/null"
            while ((command | getline line) > 0) { sub(/[ \t]+$/, "", line); print line }
            close(command)
            skip = 1
            next
        }
        /^```/ { skip = 0 }
        !skip'
}

# In a picture 0 is exactly that, and · nearly. Which of two nearly equal numbers rounds to the other
# is the build's: without FMA some of these change places.
exact_zeros_are_small() { sed -E '/^  L[0-9]/{ :again
    s/ 0( |$)/ ·\1/; t again
    }' "$1"; }

# Does the program print what the document says? To the letter; but a build without FMA (MI_TEST_NEAR=1) rounds
# the last digits of a sum elsewhere, so there a number with a decimal point may be off by one in its
# fourth decimal, or by 1e-5 of itself: so much do sums of gradients over several runs, in floats, differ.
prints_the_document() {
    diff "$work/document" "$work/program" >"$work/diff" && return
    [ -n "$MI_TEST_NEAR" ] && awk '
        function differ() { bad = 1; exit 1 }
        function near(a, b,    d, size) {
            d = a > b ? a - b : b - a
            size = a < 0 ? -a : a
            return d <= 1.01e-4 || d <= 1e-5 * size
        }
        BEGIN { number = "[-+]?[0-9]+[.][0-9]+(e[-+][0-9]+)?" }
        FNR == NR { document[FNR] = $0; lines = FNR; next }
        {
            a = document[FNR]; b = $0
            gsub(/ +/, " ", a); gsub(/ +/, " ", b)      # -3.5763 is as wide as -3.57629 is not
            while (match(a, number)) {
                before = substr(a, 1, RSTART - 1); x = substr(a, RSTART, RLENGTH); a = substr(a, RSTART + RLENGTH)
                if (!match(b, number) || substr(b, 1, RSTART - 1) != before) differ()
                if (!near(x + 0, substr(b, RSTART, RLENGTH) + 0)) differ()
                b = substr(b, RSTART + RLENGTH)
            }
            if (a != b) differ()
        }
        END { if (bad || FNR != lines) exit 1 }' "$work/document" "$work/program"
}

for doc in ${MI_DOCS:-README.md walkthrough.md labs/README.md}; do
    [ -f "$root/$doc" ] || continue
    render <"$root/$doc" >"$work/page"
    if [ "$1" = --update ]; then
        cat "$work/page" >"$root/$doc"
        cp "$work/repo/"*.svg "$root/docs" 2>/dev/null
        continue
    fi
    commands=$(grep -c '^\$ ' "$root/$doc")
    exact_zeros_are_small "$root/$doc" >"$work/document"
    exact_zeros_are_small "$work/page" >"$work/program"
    if prints_the_document; then
        passed=$((passed + commands))
    else
        failed=$((failed + 1))
        echo "FAIL $doc: a command prints something else (< the document, > the program):"
        head -n 20 "$work/diff"
    fi
    "$mi" --help >"$work/help"
    "$mi" --sites >"$work/sites"
    for flag in $(grep -oE '(^|[^-a-zA-Z0-9])--[a-z][-a-z]*' "$root/$doc" | grep -oE -- '--[a-z][-a-z]*' | sort -u); do
        case $flag in --update|--array|--wrap) continue ;; esac
        if grep -qE -- "$flag( |\$)" "$work/help"; then passed=$((passed + 1)); else
            failed=$((failed + 1))
            echo "FAIL $doc: $flag is no option"
        fi
    done
    for name in $(grep -oE '`[a-z_0-9]+\(\)`' "$root/$doc" | tr -d '`()' | sort -u); do
        if grep -qE "\b$name\(" "$root/mi.c"; then passed=$((passed + 1)); else
            failed=$((failed + 1))
            echo "FAIL $doc: there is no function $name"
        fi
    done
    for file in $(grep -oE '`[a-zA-Z_0-9/.-]+\.(c|h|sh|md|bin|tsv|py|safetensors|txt|svg)`' "$root/$doc" | tr -d '`' | sort -u); do
        case $file in gpt2.safetensors|model.safetensors) continue ;; esac
        if [ -e "$root/$file" ]; then passed=$((passed + 1)); else
            failed=$((failed + 1))
            echo "FAIL $doc: there is no file $file"
        fi
    done
    for target in $(grep -oE '(`|^    |[$] |&& )make [a-z][-a-z0-9]*' "$root/$doc" | sed 's/.*make //' | sort -u); do
        if grep -qE "^$target:|^\.PHONY:.* $target( |\$)" "$root/Makefile" "$root/labs/course/Makefile.student"; then passed=$((passed + 1)); else
            failed=$((failed + 1))
            echo "FAIL $doc: make knows no $target"
        fi
    done
done
[ "$1" = --update ] && exit 0

# The pictures of the documents are those that their commands draw.
for picture in "$work/repo/"*.svg; do
    [ -e "$picture" ] || continue
    name=docs/$(basename "$picture")
    if [ -n "$MI_TEST_NEAR" ] || cmp -s "$picture" "$root/$name"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL $name: the program draws another picture"
    fi
done

# The array of jobs in README.md, its last task only: what --wrap is given is a script.
sed -n "/^    sbatch/,/[^\\\\]\$/p" "$root/README.md" | sed "1s/^[^']*'//; s/'\$//" >"$work/part.sh"
(cd "$work/repo" && SLURM_ARRAY_TASK_ID=12 sh "$work/part.sh") >"$work/log" 2>&1
if [ "$(awk -F'\t' '$1 == "change" && $2 { n++ } END { print n, $2 }' "$work/repo/part.12")" = "$((16 * 24)) 208" ]; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    echo "FAIL README.md: the array of jobs does not write rows 193-208"
    head -n 5 "$work/log"
fi

# The example at the top of mi.h is a program.
{
    printf '#include "mi.h"\n#include <stdio.h>\nint main(void)\n{\n'
    sed -n '/^ \*     MiModel/,/^ \* Every function/p' "$root/mi.h" | grep '^ \*     ' | sed 's|^ \* *||; s|//.*||'
    printf 'printf("%%d %%d %%d", before[0] > before[1], after[0] < before[0], pattern[0] >= 0);\n'
    printf 'mi_free(fork); mi_edits_free(&edits); mi_free(base);\n'
    printf 'mi_tokenizer_close(words); mi_close(model);\nreturn 0;\n}\n'
} >"$work/example.c"
if ${CC:-cc} -O1 -I"$root" -DMI_NO_MAIN "$work/example.c" "$root/mi.c" -lm -o "$work/example" 2>"$work/log" &&
    [ "$(cd "$root" && "$work/example")" = "1 1 1" ]; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    echo "FAIL mi.h: its example does not compile or does not say what it should"
    head -n 5 "$work/log"
fi
# The contents of mi.c are its rulers, in their order
sed -n '/^ \* In reading order:/,/^ \*\//s/^ \*     \(.*\)$/\1/p' "$root/mi.c" | sed 's/   .*//' > "$work/contents"
grep -A1 '^/\* ====' "$root/mi.c" | sed -n 's|^/\* \([^=].*[^ ]\) *\*/$|\1|p' > "$work/rulers"
if cmp -s "$work/contents" "$work/rulers"; then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo "FAIL mi.c: the contents are not the rulers: $(diff "$work/contents" "$work/rulers" | head -3 | tr '\n' ' ')"
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
