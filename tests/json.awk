# json.awk - check that the input is one JSON object and print parts of it.
#
#     awk -v want='.base.metric .tokens[2].id' -f tests/json.awk FILE      these values, in a line
#     awk -f tests/json.awk FILE                                           every PATH=VALUE
#
# Without `want`, argv and edits are left out: what is left are the numbers of an experiment.
# Values stand as in the file, strings with their quotes and escapes. A path that is not there is
# "-". Malformed input prints "malformed: why" and exits with 1. To be run with LC_ALL=C.

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
            path[depth] = above[depth] "." substr(token, 2, length(token) - 2)
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

END {
    if (broken) exit 1
    if (state != "end") { print "malformed: it ends too early"; exit 1 }
    n = split(want, names, " ")
    for (i = 1; i <= n; i++)
        printf "%s%s", (names[i] in value) ? value[names[i]] : "-", i < n ? " " : "\n"
    for (i = 1; !n && i <= leaves; i++)
        if (order[i] !~ /^\.(argv|edits)/) print order[i] "=" value[order[i]]
}
