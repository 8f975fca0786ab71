#!/bin/sh
# assign.sh FOLDER EXERCISE... - write an assignment: the repository's files with these exercises cut
# out of them, and what a student needs to build and test them. Called by `make assignment`, in the
# repository root, with BUILD, CC, FINDINGS and perhaps STUDENT in the environment.
set -e
folder=$1 course=labs/course tools=$BUILD/course
shift
if [ -e "$folder" ]; then
    echo "$folder is there already: move it away first (somebody may have worked in it)" >&2
    exit 1
fi
new=$folder.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
mkdir -p "$new/labs" "$new/tests" "$new/data"

# What is given, in its order
. $course/choose.sh
choose exercise exercises.txt "$@" > "$new/tests/exercises.txt"
# shellcheck disable=SC2086
choose finding findings.tsv $FINDINGS > "$new/findings"

# cut FILE: its functions become stubs, and their twins go
cut_file() {
    awk -v file="$1" '{ sub(/#.*/, "") } NF { n++ } $3 == file {
        m = split($4, f, ","); for (i = 1; i <= m; i++) print n ":" f[i]
        m = split($5, f, ","); for (i = 1; i <= m; i++) print f[i] }' "$new/tests/exercises.txt" |
        xargs "$tools/cut" assign "$1" > "$new/$1"
}
cut_file mi.c
for lab in $(sed -n 's/^[a-z_]* *[0-9]* *\(labs[^ ]*\).*/\1/p' $course/exercises.txt); do cut_file "$lab"; done
cp mi.h tokenizer.bin "$new"
cp labs/lab.h "$new/labs"
cp tests/data/*.tsv "$new/data"
cp $course/Makefile.student "$new/Makefile"
cp $course/drive.h $course/drive_engine.c $course/drive_labs.c $course/variants.h $course/check.c \
   $course/run.sh "$new/tests"
cp tests/golden/odd7.safetensors "$new/tests/small.safetensors"
for model in tiny wild; do
    [ -e $model.safetensors ] || continue
    if [ -n "$STUDENT" ]; then "$tools/permute" model $model.safetensors "$STUDENT" "$new/$model.safetensors"
    else cp $model.safetensors "$new"; fi
done
(cd "$new/tests" && ln -s ../tiny.safetensors ../tokenizer.bin .)
echo "$STUDENT" > "$new/student"
$CC -O2 -std=gnu11 -w -fPIC -I. -Dmain=mi_main -c mi.c -o "$new/engine.o"

# What is expected is the reference's, on other numbers than the grader's
tools=$(cd "$tools" && pwd)
(cd "$new/tests"
"$tools/check" table "$tools/engine.so" 1 $(awk '$3 == "mi.c" { print $1 }' exercises.txt)
"$tools/check" table "$tools/labs.so" 1 $(awk '$3 != "mi.c" { print $1 }' exercises.txt)) > "$new/all"
awk -F'\t' '$1 == "=" { keep = $4 == "" } keep' "$new/all" > "$new/tests/expected.txt"
rm "$new/all"

sh $course/handout.sh "$new" > "$new/HANDOUT.md"
awk -F'\t' 'BEGIN { print "question\tanswer\tcommand" } { print $1 "\t\t./mi " }' \
    "$new/findings" > "$new/answers.tsv"
rm "$new/findings"
mv "$new" "$folder"
echo "$folder: $# exercises; begin with HANDOUT.md"
