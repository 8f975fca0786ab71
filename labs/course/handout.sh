#!/bin/sh
# handout.sh ASSIGNMENT - its HANDOUT.md to stdout: HANDOUT.md here, of which each exercise that is given
# has its part, with what walkthrough.md says under "Write it" about it; then the findings.
course=labs/course
awk '/^@/ { exit } { print }' $course/HANDOUT.md
n=0
while read -r name points file functions rest; do
    n=$((n + 1))
    printf '## %d. %s (%s points)\n\n' $n "$name" "$points"
    awk -v name="@$name" '/^@/ { on = $0 == name; next } on { print }' $course/HANDOUT.md
    echo
    awk -v name="$name" -v file="$file" '
        /^\*\*Write it\*\*/ { head = $0; sub(/\).*/, "", head)
                              on = index(head, "`" name "`") || (file != "mi.c" && index(head, "`" file "`")) }
        /^$/ { if (on) print ""; on = 0 }
        on { sub(/^\*\*Write it\*\* *\([^)]*\)[.:]? */, "*From the course:* "); print }' walkthrough.md
done < "$1/tests/exercises.txt"
total=$(awk -F'\t' '!/^#/ && NF { n += $2 } END { print n }' $course/findings.tsv)
cat <<EOF
## Findings ($total points)

Answers go into answers.tsv: with tabs between the question's name, the answer, and the command that shows it (one call of
./mi, no pipes; half of the points are for the command, which the grader runs, and whose output has to contain the answer).
An address is written as \`mi\` prints it, L5H3 or L4N12@-1; an interval is two numbers with a blank between.
$(grep -q . "$1/student" && echo \
"Your tiny.safetensors is your own: its heads and neurons stand in an order that nobody else has.")

| question | points | |
|---|---|---|
EOF
awk -F'\t' '!/^#/ && NF { printf "| %s | %d | %s |\n", $1, $2, $4 }' $course/findings.tsv
