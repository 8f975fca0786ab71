# choose.sh - the lines of a list that a teacher chose, for assign.sh and grade.sh.
choose() {                          # KIND LIST NAME...: its lines, in that order
    kind=$1 list=labs/course/$2
    shift 2
    for name; do
        grep "^$name[[:blank:]]" "$list" || { echo "no $kind is called $name" >&2; exit 1; }
    done
}
