#!/bin/sh
# test_lab_edges.sh - build/labs/edges: circuits as EAP-IG evaluates them (tests/golden/circuit_edges.golden,
# by make_circuit_edges.py), what it writes, and what it refuses. Run it from the repository root.

. tests/scratch.sh
labs=$(dirname "$mi")/labs
S="When Mary and John went to the store, Mary gave a drink to"

edges() { "$labs/edges" "$@" > "$dir/out" 2> "$dir/err"; }
for model in odd7 brain11; do
    of=tests/golden/edges_$model
    top=$(awk -F'\t' -v m=$model '$1 == m && $2 == "absolute" && $3 == 0.2 { print $4 }' tests/golden/circuit_edges.golden)
    edges tests/golden/$model.safetensors $of.json $of.tsv "$top" "$dir/out.json" || bad "labs/edges" "$(cat "$dir/err")"
    sed 's/± [^ ]*//g; s/%/ /' "$dir/out" | awk -v m=$model -v out="$dir/out.json" '
        function near(what, a, b) { n++; if ((a - b) ^ 2 > 1e-8 || a == "") print what " is " a ", not " b }
        FNR == NR && /best by/ { kind = /\|/ ? "absolute" : "signed" }
        FNR == NR && /at random/ { kind = "random" }
        FNR == NR && /out.json/ { kind = "out" }
        FNR == NR && NR == 3 { whole = $1; none = $2; source = $3 }
        FNR == NR && NF == 5 && /^ +[0-9]/ { got[kind, $1 / 100] = $2 " " $3; f[kind, $1 / 100] = $4; kl[kind, $1 / 100] = $5 }
        FNR == NR && kind == "out" && /^ +[0-9]/ { got[kind] = $1 " " $2; f[kind] = $3; kl[kind] = $4 }
        FNR == NR && $1 == "CPR" && $2 != "+" { cpr[kind] = $2; cmd[kind] = $4 }
        FNR == NR { next }
        { split($0, g, "\t"); if (g[1] != m) next }
        g[2] == "means" { near("the model", whole, g[4]); near("no edge", none, g[5]); near("the source", source, g[6]) }
        g[2] == "areas" { near("CPR", cpr[g[3]], g[4]); near("CMD", cmd[g[3]], g[5]) }
        g[2] == "signed" || g[2] == "absolute" {
            key = g[2] SUBSEP g[3]
            if (got[key] != g[4] " " g[5]) print g[2], g[3], "has edges " got[key] ", not " g[4], g[5]
            near(g[2] " " g[3] " f", f[key], g[6]); near(g[2] " " g[3] " KL", kl[key], g[7])
            if (g[2] == "absolute" && g[3] == 0.2) {
                if (got["out"] != got[key]) print "OUT has edges " got["out"]
                near("OUT f", f["out"], g[6]); near("OUT KL", kl["out"], g[7]) } }
        g[2] == "in" {
            getline text < out; sub(/.*"edges": /, "", text)
            k = split(text, e, /, "/)
            for (i = 1; i <= k; i++) if (e[i] ~ /"in_graph": true/ || e[i + 1] ~ /^in_graph": true/ && e[i] ~ /->/) {
                name = e[i]; gsub(/[{"]|: .*/, "", name); inside[name] = 1; k2++ }
            l = split(g[3], want, " ")
            for (i = 1; i <= l; i++) if (!(want[i] in inside)) print "OUT lacks " want[i]
            if (k2 != l) print "OUT has " k2 " edges, not " l }
        END { if (n != 49) print n " numbers" }' - tests/golden/circuit_edges.golden > "$dir/why"
    if [ -s "$dir/why" ]; then bad "labs/edges, $model" "$(head -n 5 "$dir/why")"; else ok; fi
    cp "$dir/out" "$dir/first"
    edges tests/golden/$model.safetensors "$dir/out.json" $of.tsv
    numbers='/out.json$/d; /in_graph$/d; $s/^ *[0-9]* *[0-9]*//'   # of what is written more was chosen
    if [ "$(sed "$numbers" "$dir/out")" = "$(sed "$numbers" "$dir/first")" ]; then ok
    else bad "labs/edges" "what it writes reads otherwise: $(diff "$dir/first" "$dir/out" | head -n 4)"; fi
done

# STATUS SAYING ARGUMENT...: one line that says so, and that status
refused() {
    want=$1 saying=$2
    shift 2
    edges "$@"
    status=$?
    if [ $status -eq "$want" ] && [ ! -s "$dir/out" ] && [ "$(wc -l < "$dir/err")" -eq 1 ] && grep -qF -e "$saying" "$dir/err"
    then ok; else bad "labs/edges refuses" "status $status, not \"$saying\" but: $(head -n 2 "$dir/err")"; fi
}
odd=tests/golden/odd7.safetensors
json() { sed "$1" tests/golden/edges_odd7.json > "$dir/bad.json"; refused 1 "$2" $odd "$dir/bad.json"; }
refused 1 "n_layers is not this model's" $odd tests/golden/edges_brain11.json
json 's/"d_model": [0-9]*/"d_model": 768/' "d_model is not this model's"
json 's/"parallel_attn_mlp": false/"parallel_attn_mlp": true/' "parallel_attn_mlp is not this model's"
json 's/"n_heads": [0-9]*, //' "cfg is not complete"
json 's/"n_heads"/"heads"/' '"heads" in cfg is not understood'
json 's/"a0.h1": {/"a0.h3": {/' '"a0.h3" in nodes is not understood'
json 's/"m1": {/"m1": {"neurons": [], /' '"neurons" in nodes is not understood'
json 's/"m1": {/"m1": {"score": 1, /' '"score" in nodes is not understood'
json 's/"a0.h0->m0"/"a0.h9->m0"/' 'no edge "a0.h9->m0"'
json 's/"a0.h0->m0"/"m2->m0"/' 'no edge "m2->m0"'
json 's/"a0.h0->a1.h0<q>"/"a0.h0->a1.h0"/' 'no edge "a0.h0->a1.h0"'
json 's/"a0.h0->m0": {[^}]*}, //' 'edge a0.h0->m0 is missing'
json 's/"a0.h0->m0": {[^}]*}/"a0.h0->m0": {"score": 1}/' 'edge a0.h0->m0 is missing'
json 's/"a0.h0->m0": {/&"score": 1, /' 'appears twice'
json 's/"a0.h0->m0": {"score": [^,]*/"a0.h0->m0": {"score": NaN/' 'malformed'
json 's/"a0.h0->m0": {"score": [^,]*/"a0.h0->m0": {"score": null/' '"score" in edges is not understood'
json 's/"in_graph": false/"in_graph": 0/' '"in_graph" in nodes is not understood'
json 's/"a0.h0->m0": {/&"weight": {"in_graph": true}, /' '"weight" in edges is not understood'
json 's/^{/{"extra": {}, /' '"extra" in extra is not understood'
json 's/"a0.h0->m0"/"\\u001b[2J"/' 'no edge "?[2J"'
json 's/^.*$/[1]/' 'not understood'
json 's/^.*$/7/' 'cfg is not complete'
json 's/, "edges".*//' 'malformed'
json 's/"edges": .*/"edges": []}/' '"edges" in edges is not understood'
"$mi" --dla --json > "$dir/dla.json"
refused 1 'no table of --edges' tiny.safetensors "$dir/dla.json"
"$mi" --source "$S" --attribute 'L*H*' --json > "$dir/heads.json"
refused 1 'this model has no edge' tiny.safetensors "$dir/heads.json"
"$mi" --source "$S" --attribute edges --json > "$dir/scores.json"
refused 1 'this model has no edge' $odd "$dir/scores.json"
refused 2 usage $odd
for n in 0 173 x ''; do refused 2 'there are 172 edges' $odd tests/golden/edges_odd7.json tests/golden/edges_odd7.tsv "$n" "$dir/n.json"; done
table() { printf "$1" > "$dir/t.tsv"; refused 2 "$2" $odd tests/golden/edges_odd7.json "$dir/t.tsv"; }
table 'prompt\tanswer\tversus\n#1 2\t#3\t#4\n' 'no column source'
table 'prompt\tsource\tanswer\tversus\n#1 2\t#1 2 3\t#3\t#4\n' 'row 1: 2 tokens, its source has 3'
table 'prompt\tsource\tanswer\tversus\n#1 2\t#1 3\t#3 4\t#4\n' '2 tokens'
table 'prompt\tsource\tanswer\tversus\n#1 2\t#1 3\t#3\n' 'expected the header'
table 'prompt\tsource\tanswer\tversus\n#1 999999\t#1 3\t#3\t#4\n' 'no token'
table 'prompt\n' 'a header and rows'
printf 'prompt\tsource\tanswer\tversus\n#1 2\t#1 2\t#3\t#4\n' > "$dir/t.tsv"
refused 1 'the same logit difference' $odd tests/golden/edges_odd7.json "$dir/t.tsv"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
