#!/bin/sh
# handout.sh ASSIGNMENT - its HANDOUT.md to stdout: HANDOUT.md here, of which each exercise that is given
# has its part, with what walkthrough.md says under "Write it" about it; then the findings that are given.
course=labs/course given=$1/tests/exercises.txt findings=$1/findings

part() { awk -v name="@$1" '/^@/ { on = $0 == name; next } on { print }' $course/HANDOUT.md; }

# FUNCTION EXERCISE FUNCTIONS...: what it calls of other exercises, if it and they are given
calls() {
    grep -q "^$1 " "$given" || return
    function=$1
    shift
    while [ $# -gt 0 ]; do
        awk -v e="$1" -v f="$2" '$1 == e { print f " (exercise " NR ")" }' "$given"
        shift 2
    done | awk -v f="$function" '{ all = all (NR > 1 ? " and " : "") $0 } END { if (NR) print "`" f "` calls " all "." }'
}

awk '/^@/ { exit } { print }' $course/HANDOUT.md
needs=$(calls mlp layernorm '`sigma_of`, `normalize`' gelu '`naive_gelu`'
        calls lens layernorm '`sigma_of`, `normalize`')
if [ -z "$needs" ]; then echo "**Order**: as below is a good one; each exercise can be tested without the others."
else printf '**Order**: as below is a good one. Each exercise can be tested without the others, but for this:\n%s\n' "$needs"; fi
if grep -q ' mi\.c ' "$given"; then part engine; fi
echo
echo "Hand in the folder as it is (mi.c, labs/, answers.tsv and \`student\` are read)."
echo
n=0
while read -r name points file functions rest; do
    n=$((n + 1))
    printf '## %d. %s (%s points)\n\n' $n "$name" "$points"
    part "$name"
    echo
    awk -v name="$name" -v file="$file" '
        /^\*\*Write it\*\*/ { head = $0; sub(/\).*/, "", head)
                              on = index(head, "`" name "`") || (file != "mi.c" && index(head, "`" file "`")) }
        /^$/ { if (on) print ""; on = 0 }
        on { sub(/^\*\*Write it\*\* *\([^)]*\)[.:]? */, "*From the course:* "); print }' walkthrough.md
done < "$given"
[ -s "$findings" ] || exit 0
cat <<EOF
## Findings ($(awk -F'\t' '{ n += $2 } END { print n }' "$findings") points)

Answers go into answers.tsv: with tabs between the question's name, the answer, and the command that shows it (one call of
./mi, no pipes; half of the points are for the command, which the grader runs, and whose output has to contain the answer).
An address is written as \`mi\` prints it, L5H3 or L4N12@-1, and its command may not name it: it has to find it. An interval
is two numbers with a blank between.
$(grep -q . "$1/student" && echo \
"Your tiny.safetensors is your own: its heads and neurons stand in an order that nobody else has.")

| question | points | |
|---|---|---|
EOF
awk -F'\t' '{ printf "| %s | %d | %s |\n", $1, $2, $4 }' "$findings"
