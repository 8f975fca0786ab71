#!/bin/sh
# grade.sh SUBMISSION - points of each exercise, and why not more. SUBMISSION is a folder with a
# student's mi.c, labs/ and answers.tsv, or a folder of such folders: then a line for each, and all
# points in SUBMISSION.csv. Called by `make grade`, in the repository root.
#
# Of a submission only the functions of the exercises are taken, and put beside the teacher's own:
# tests, tables and Makefiles in it are not looked at.
course=labs/course tools=$(cd "$BUILD/course" && pwd) mi=$(cd "$BUILD" && pwd)/mi
tab=$(printf '\t')
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
limit= no_missing=
case $(uname) in Linux) no_missing=-Wl,-z,defs ;; esac      # or one missing function would spoil all
if timeout -k 1 5 true 2>/dev/null; then limit="timeout -k 1 60"; fi
mkdir "$work/data"
cp tests/golden/odd7.safetensors "$work/data/small.safetensors"
for name in tiny.safetensors tokenizer.bin mi.h; do ln -s "$PWD/$name" "$work/data/$name"; done
. $course/choose.sh
# shellcheck disable=SC2086
choose exercise exercises.txt $EXERCISES > "$work/exercises"
# shellcheck disable=SC2086
choose finding findings.tsv $FINDINGS > "$work/findings"

# A driver with the functions of these exercises, as the student wrote them, beside the teacher's
build() {                           # OUT DRIVER WHAT-ELSE EXERCISE...
    out=$1 driver=$2 rest=$3
    shift 3
    rm -rf "$work/src"
    mkdir -p "$work/src"
    cp labs/*.[ch] $course/*.[ch] mi.h "$work/src"
    has=
    for e; do has="$has -DHAS_$e"; done
    for file in $(for e; do awk -v e="$e" '$1 == e { print $3 }' "$work/exercises"; done | sort -u); do
        functions=$(for e; do awk -v e="$e" -v f="$file" '$1 == e && $3 == f { gsub(",", " ", $4); print $4 }' \
            "$work/exercises"; done)
        "$tools/cut" splice "$file" "$folder/$file" $functions > "$work/src/$(basename "$file")" || return 1
    done
    [ -e "$work/src/mi.c" ] || [ "$driver" != drive_engine.c ] || cp mi.c "$work/src"
    # shellcheck disable=SC2086
    $limit $CC -O0 -g $ARCH -std=gnu11 -w -shared -fPIC $no_missing -DSTUDENT $has -DENGINE="\"$work/src/mi.c\"" -I"$work/src" \
        "$work/src/$driver" $rest -o "$out" -lm > "$work/log" 2>&1
}

# What the compiler said, with the student's names
said() { sed -e 's/student_//g' -e '/^In file included from/d' -e '/^ *from /d' "$work/log"; }

engine_or_labs() {                  # DRIVER WHAT-ELSE: grades the exercises of stdin
    driver=$1 rest=$2 ready=
    while read -r name points file functions twins; do
        why= written= twins=$(echo "$twins" | tr ',' '\n' | sed 's/^-//; s/=.*//')
        for f in $(echo "$functions" | tr ',' ' '); do
            # shellcheck disable=SC2086
            says=$("$tools/cut" state "$file" "$folder/$file" "$f" $twins 2>&1)
            case $? in 0) written=1 ;; 3) stub=$says ;; *) why=$says; break ;; esac
        done
        [ -f "$folder/$file" ] || why="$file is missing"
        [ -n "$why$written" ] || why=$stub
        if [ -n "$why" ]; then printf '%s\t0\t%s\t%s: %s\n' "$name" "$points" "$name" "$why"
        else ready="$ready $name"; fi
    done
    [ -n "$ready" ] || return
    good=$ready
    # shellcheck disable=SC2086
    if ! build "$work/all.so" $driver "$rest" $ready; then
        good=
        for e in $ready; do         # which of them does not compile?
            if build "$work/one.so" $driver "$rest" "$e"; then good="$good $e"
            else
                error=$(said | grep -m 1 -e 'error:' -e 'undefined reference' | sed 's/^.*error: //; s/^.*: undefined/undefined/')
                case $error in
                *undeclared* | *'unknown type'*)
                    error="$error (only functions come along: no #define, #include, type or constant outside of one)" ;;
                esac
                printf '%s\t0\t%s\t%s: does not compile: %s\n' "$e" "$(points_of "$e")" "$e" "$error"
                { echo; echo "$e:"; said | head -n 12; } >> "$work/compiler"
            fi
        done
        # shellcheck disable=SC2086
        [ -z "$good" ] || build "$work/all.so" $driver "$rest" $good || good=
    fi
    for e in $good; do
        (cd "$work/data" && "$tools/check" grade "$table" "$work/all.so" "$e" "$(points_of "$e")")
    done | sed 's/student_//g'
}
points_of() { awk -v e="$1" '$1 == e { print $2 }' "$work/exercises"; }

# ---- Findings ----

# The answer to a question about $model: arguments of mi, a program of awk over its --tsv
answer_of() {
    awk -F'\t' -v q="$1" '$1 == q { print $5 }' $course/findings.tsv |
        sed "s/{needed}/$(cat "$work/needed" 2>/dev/null)/" > "$work/arguments"
    awk -F'\t' -v q="$1" '$1 == q { print $6 }' $course/findings.tsv > "$work/awk"
    run_mi --tsv | awk -F'\t' -f "$work/awk"
}

# ./mi with the arguments of a line of text in $work/arguments: quotes as in a shell, and nothing else
# of a shell. It may not write files: only into the pipe.
run_mi() {
    xargs sh -c 'ulimit -t 20; ulimit -f 0; cd "$0" && exec "$@"' "$work/answers" "$mi" -m "$model" "$@" \
        < "$work/arguments" 2>/dev/null | cat
}

findings() {
    rm -rf "$work/answers"
    mkdir "$work/answers"
    ln -s "$PWD/tests/data" "$work/answers/data"
    student=$(head -c 20 "$folder/student" 2>/dev/null | tr -cd '0-9')
    case $(basename "$folder") in *[!0-9]*) ;; *) student=$(basename "$folder") ;; esac
    model=$PWD/tiny.safetensors
    if [ -n "$student" ]; then
        model=$work/tiny.$student.safetensors
        "$tools/permute" model tiny.safetensors "$student" "$model"
    fi
    rm -f "$work/needed"
    [ ! -f "$folder/answers.tsv" ] || answer_of needed > "$work/needed"
    while IFS=$tab read -r name points kind rest; do
        rm -f "$work/line"
        [ -f "$folder/answers.tsv" ] && grep -a "^$name$tab" "$folder/answers.tsv" | head -n 1 | tr -d '\r' > "$work/line"
        [ -f "$work/line" ] || : > "$work/line"
        given=$(cut -f2 "$work/line" | tr -s ' ' | sed 's/^ //; s/ $//')
        key=
        [ -z "$given" ] || key=$(answer_of "$name")
        cut -f3 "$work/line" | head -c 500 |            # a spreadsheet doubles quotes
            sed '/^".*"$/ { s/^"//; s/"$//; s/""/"/g; }' > "$work/command"
        grade_finding "$name" "$points" "$kind" "$key" "$given"
    done < "$work/findings"
}

# Does A answer as KEY does?
agrees() {                          # KIND KEY GIVEN
    awk -v kind="$1" -v key="$2" -v given="$3" 'BEGIN {
        n = split(key, k, " "); m = split(given, g, /[ ,;]+/)
        sub(/@.*/, "", key); sub(/@.*/, "", given)
        if (kind == "address") exit key != given
        near = kind == "interval" ? .02 : .01
        if (n != m) exit 1
        for (i = 1; i <= n; i++) { d = g[i] - k[i]; if (d * d > (near * k[i]) ^ 2) exit 1 } }'
}

grade_finding() {                   # NAME POINTS KIND KEY GIVEN
    got=$2 why=right half=$(awk -v p="$2" 'BEGIN { print p / 2 }')
    case $3 in
    address) form='^L[0-9]+[HN][0-9]+(@.*)?$' how="an address as ./mi prints it, L5H3" ;;
    number) form='^[-+]?[0-9.]+(e[-+]?[0-9]+)?$' how="a number like -1.5" ;;
    *) form='^[-+]?[0-9.]+[ ,;]+[-+]?[0-9.]+$' how="two numbers like -1.5 2.5" ;;
    esac
    if [ -z "$5" ] && grep -q "$1 .*\./mi" "$folder/answers.tsv" 2>/dev/null && ! grep -q "^$1$tab" "$folder/answers.tsv"
    then got=0 why="$1: no answer: blanks in answers.tsv, where tabs belong"
    elif [ -z "$5" ]; then got=0 why="$1: no answer"
    elif ! agrees "$3" "$4" "$5" && ! echo "$5" | grep -qE "$form"; then got=0 why="$1: $5 is not written as $how"
    elif ! agrees "$3" "$4" "$5"; then got=0 why="$1: not $5"
    elif ! grep -qE '^\./mi( |$)' "$work/command"; then
        got=$half why="$1: right, but no command ./mi ... shows it"
    elif [ "$3" = address ] && grep -qwF -e "${5%%@*}" "$work/command"; then
        got=$half why="$1: right, but the command names ${5%%@*} itself: it has to find it"
    else
        sed 's/^\.\/mi//' "$work/command" > "$work/arguments"
        run_mi > "$work/shown"
        run_mi --tsv >> "$work/shown"
        if ! awk -v kind="$3" -v given="$5" '
            { line = $0; gsub(/[−]/, "-", line); all = all " " line }
            BEGIN { sub(/@.*/, "", given) }
            kind == "address" && index($0, given) { found = 1 }
            END { if (kind == "address") exit !found
                  m = split(given, g, /[ ,;]+/); n = split(all, w, /[^-+.0-9e]+/)
                  low = g[1]; high = g[m]; middle = (low + high) / 2
                  for (i = 1; i <= n; i++) { d = w[i] - middle; if (w[i] != "" && d * d <= (.01 * middle) ^ 2) exit 0 }
                  exit 1 }' "$work/shown"
        then got=$half why="$1: right, but what the command prints does not show it"; fi
    fi
    printf '%s\t%s\t%s\t%s\n' "$1" "$got" "$2" "$why"
}

# ---- One submission, or many ----

grade_one() {                       # FOLDER: lines NAME POINTS OF WHY, in the order of EXERCISES
    folder=$(cd "$1" && pwd)
    rm -f "$work/compiler"
    table=$tools/engine.table
    awk '$3 == "mi.c"' "$work/exercises" > "$work/some"
    engine_or_labs drive_engine.c "" < "$work/some" > "$work/graded"
    table=$tools/labs.table
    awk '$3 != "mi.c"' "$work/exercises" > "$work/some"
    engine_or_labs drive_labs.c "$tools/mi.o" < "$work/some" >> "$work/graded"
    while read -r name rest; do grep "^$name$tab" "$work/graded"; done < "$work/exercises"
    findings
}

if [ -f "$1/mi.c" ] || [ -d "$1/labs" ]; then
    grade_one "$1" > "$work/points"
    awk -F'\t' '{ printf "%-11s %4s of %s  %s\n", $1, $2, $3, $4; sum += $2; of += $3 }
                END { printf "%s of %s points\n", sum, of }' "$work/points"
    [ ! -f "$work/compiler" ] || cat "$work/compiler"
    exit
fi
csv=${1%/}.csv
for folder in "$1"/*/; do
    [ -d "$folder" ] || continue
    who=$(basename "$folder")
    grade_one "$folder" > "$work/points"
    awk -F'\t' -v who="$who" -v student="$(head -c 20 "$folder/student" 2>/dev/null | tr -cd '0-9')" '
        function quoted(text) { gsub(/"/, "\"\"", text); return "\"" text "\"" }
        { sum += $2; of += $3; names = names "," $1; points = points "," $2
          if ($4 != "right") why = why (why ? "; " : "") $4 }
        END { print "submission,student,points,of" names ",why"
              print quoted(who) "," student "," sum "," of points "," quoted(why) }' "$work/points" > "$work/row"
    [ -f "$work/csv" ] || head -n 1 "$work/row" > "$work/csv"
    sed 1d "$work/row" >> "$work/csv"
    awk -F'\t' -v who="$who" '{ sum += $2; of += $3 } END { print who ": " sum " of " of }' "$work/points"
done
[ -f "$work/csv" ] || { echo "$1: no submission: a folder with mi.c, labs/ and answers.tsv"; exit 1; }
cp "$work/csv" "$csv" && echo "all points: $csv"
