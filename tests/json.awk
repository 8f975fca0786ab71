# json.awk - check that the input is one JSON object and print parts of it.
#
#     awk -v want='.metric .prompt.tokens[2].id' -f tests/json.awk FILE    these values, in a line
#     awk -f tests/json.awk FILE                                           every PATH=VALUE
#
# The numbers of a table can be asked for by the labels of its rows and columns: of the metric,
# .tables.metric.values[edited][0] is that of the edited run, and .tables.metric.each[3][base][0]
# that of row 4 of --data. Spaces in keys and labels are _ here: .tables.pattern_L5H3.values[9_D][0].
#
# Without `want`, argv and edits are left out: what is left are the numbers of an experiment, in
# tables with labels that are no numbers for the indices. Values stand as in the file, strings with
# their quotes and escapes. A path that is not there is "-". Malformed input prints "malformed: why"
# and exits with 1. To be run with LC_ALL=C.

function malformed(why)
{
    printf "malformed: %s in line %d: %.60s\n", why, NR, $0
    broken = 1
    exit 1
}

function leaf(text)
{
    value[path[depth]] = text
    order[++leaves] = path[depth]
}

# A value is complete: what may follow?
function next_state() { state = depth ? "more" : "end" }

function begin(bracket, inner)
{
    closing[depth + 1] = bracket
    path[depth + 1] = path[depth]
    above[depth + 1] = path[depth]
    count[depth + 1] = 0
    depth++
    if (bracket == "]") path[depth] = above[depth] "[0]"
    state = inner
}

function end(bracket)
{
    if (!depth || closing[depth] != bracket) malformed("unexpected " bracket)
    depth--
    next_state()
}

function string_at(text)
{
    if (!match(text, /^"([^"\\]|\\["\\\/bfnrt]|\\u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F])*"/))
        malformed("a bad string")
    token = substr(text, 1, RLENGTH)
    if (token ~ /[\001-\037\177]/) malformed("a control character")
}

BEGIN { state = "value"; depth = 0; path[0] = "" }

{
    rest = $0
    for (;;) {
        sub(/^[ \t]+/, "", rest)
        if (rest == "") break
        c = token = substr(rest, 1, 1)
        if (state == "end") malformed("something after the object")
        else if (state == "more") {
            if (c == "," && closing[depth] == "]") {
                path[depth] = above[depth] "[" ++count[depth] "]"
                state = "value"
            } else if (c == ",") state = "key"
            else end(c)
        } else if ((state == "key" || state == "key or }") && c == "\"") {
            string_at(rest)
            name = substr(token, 2, length(token) - 2)
            gsub(/ /, "_", name)
            path[depth] = above[depth] "." name
            state = ":"
        } else if (state == "key or }" && c == "}") end(c)
        else if (state == ":" && c == ":") state = "value"
        else if (state == "value or ]" && c == "]") end(c)
        else if (state == "value" || state == "value or ]") {
            if (c == "{") begin("}", "key or }")
            else if (c == "[") begin("]", "value or ]")
            else {
                if (c == "\"") string_at(rest)
                else if (match(rest, /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/) ||
                         match(rest, /^(true|false|null)/))
                    token = substr(rest, 1, RLENGTH)
                else malformed("expected a value")
                leaf(token)
                next_state()
            }
        } else malformed("expected " state)
        rest = substr(rest, length(token) + 1)
    }
}

# The numbers of a table have two indices at their end: which labels are theirs?
# ".tables.top.tokens[0][1].id" -> part: [1] ".tables.top" [2] ".tokens" [3] "0" [4] "1" [5] ".id"
function split_path(text, part,    n, bracket, i, field, rest)
{
    if (text !~ /^\.tables\.[^.]*\.(values|se|each\[[0-9]+\]|tokens)\[[^]]*\]\[[^]]*\]/) return 0
    match(text, /\.(values|se|each\[[0-9]+\]|tokens)\[/)
    part[1] = substr(text, 1, RSTART - 1)
    part[2] = substr(text, RSTART, RLENGTH - 1)
    rest = substr(text, RSTART + RLENGTH)
    part[3] = substr(rest, 1, index(rest, "]") - 1)
    rest = substr(rest, index(rest, "]") + 2)
    part[4] = substr(rest, 1, index(rest, "]") - 1)
    part[5] = substr(rest, index(rest, "]") + 1)
    return 1
}

function label_of(table, axis, i,    text)
{
    text = value[table "." axis "[" i "]"]
    text = substr(text, 2, length(text) - 2)
    gsub(/ /, "_", text)
    return text
}

function index_of(table, axis, label,    i)
{
    if (label ~ /^[0-9]+$/) return label
    for (i = 0; (table "." axis "[" i "]") in value; i++)
        if (label_of(table, axis, i) == label) return i
    return "-"
}

# With indices for labels
function resolved(text,    part)
{
    if (!split_path(text, part)) return text
    return part[1] part[2] "[" index_of(part[1], "rows", part[3]) "][" \
        index_of(part[1], "cols", part[4]) "]" part[5]
}

# With labels for indices
function labelled(text,    part, row, col)
{
    if (!split_path(text, part)) return text
    row = label_of(part[1], "rows", part[3])
    col = label_of(part[1], "cols", part[4])
    return part[1] part[2] "[" (row ~ /^[0-9]*$/ ? part[3] : row) "][" \
        (col ~ /^[0-9]*$/ ? part[4] : col) "]" part[5]
}

END {
    if (broken) exit 1
    if (state != "end") { print "malformed: it ends too early"; exit 1 }
    n = split(want, names, " ")
    for (i = 1; i <= n; i++) {
        name = resolved(names[i])
        printf "%s%s", (name in value) ? value[name] : "-", i < n ? " " : "\n"
    }
    for (i = 1; !n && i <= leaves; i++)
        if (order[i] !~ /^\.(argv|edits)/) print labelled(order[i]) "=" value[order[i]]
}
