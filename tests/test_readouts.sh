#!/bin/sh
# test_readouts.sh - readouts of $MI against tests/golden/readouts.golden, and identities that need
# no reference. Run it from the repository root.

. tests/scratch.sh
golden=tests/golden

# --dla: each part of each case in each form, with the run's sigma and exact
cut -f 1-4 $golden/readouts.golden | sort -u > "$dir/cases"
while IFS='	' read -r model tokens answer versus; do
    file=$golden/$model.safetensors
    [ "$model" != tiny ] || file=tiny.safetensors
    set -- -m "$file" --tokens "$tokens" --answer "#$answer" --tsv
    [ "$versus" = - ] || set -- "$@" --versus "#$versus"
    for form in --dla --dla=layers --dla=tokens '--dla=L*N*'; do
        "$mi" "$@" "$form" || echo failed
    done > "$dir/out" 2> "$dir/err"
    why=$(awk -F'\t' -v model="$model" -v tokens="$tokens" -v answer="$answer" -v versus="$versus" '
        function near(a, b) { return (a - b) ^ 2 <= 1e-8 * (1 + b * b) }
        FNR == NR { if ($1 == model && $2 == tokens && $3 == answer && $4 == versus) {
            want[$5, "base"] = $6; want[$5, "base exact"] = $7; n += 2 } next }
        { if ($3 ~ /@/) sub(/ .*/, "", $3) }
        $1 == "dla" && ($3, $4) in want { n -= !seen[$3, $4]++
            if (!near($5, want[$3, $4])) why = why " " $3 " " $4 " is " $5 ", not " want[$3, $4] }
        END { if (n) why = why " " n " parts are missing"; print substr(why, 1, 200) }' \
        $golden/readouts.golden "$dir/out")
    if [ -z "$why" ]; then ok; else bad "--dla $model $answer $versus" "$why $(cat "$dir/err")"; fi
    "$mi" "$@" --lens > "$dir/out" 2> "$dir/err"
    why=$(awk -F'\t' -v model="$model" -v tokens="$tokens" -v answer="$answer" -v versus="$versus" '
        FNR == NR { if ($1 == model && $2 == tokens && $3 == answer && $4 == versus) want[$5, $6] = $7; next }
        $1 == "depth" { n++; w = want[$3, $4]
            if (!(($3, $4) in want) || ($5 - w) ^ 2 > 1e-9 * (1e-3 + w * w)) print $3, $4, $5, w }
        END { for (k in want) n--; if (n) print n " lines too many" }' $golden/lens.golden "$dir/out")
    if [ -z "$why" ]; then ok; else bad "--lens $model $answer $versus" "$why $(cat "$dir/err")"; fi
done < "$dir/cases"

# A whole is the sum of its parts: neurons and b_out, sources, heads and biases; and all are the total
for edit in "" "--ablate L5H3" "--ablate L5H3.v@1,L4H2,L5N77 --answer Mary" "--scale L4.mlp_out=2,L3H1.pattern=0.5" \
            "--knockout L5H3@-1:*" "--noise L2.resid_mid=0.5 --samples 3" "--ablate L0H1@-1 --at -2"; do
    for form in --dla --dla=layers --dla=tokens '--dla=L4N*,L2N*'; do
        "$mi" $edit "$form" --tsv || echo failed
    done > "$dir/out" 2> "$dir/err"
    why=$(awk -F'\t' '
        function near(a, b) { return (a - b) ^ 2 <= 1e-9 * (1 + b * b) }
        $1 == "table" { form++ }
        $1 == "dla" && $4 !~ /exact/ { part[form, $3, $4] = $5; total[form, $4] += $5
            if (form == 3 && $3 ~ /^L/) head[substr($3, 1, 4), $4] += $5
            if (form == 4 && $3 ~ /^L/) mlp[substr($3, 1, 2) ".mlp_out", $4] += $5 }
        $1 == "dla sum" && $3 == "the model says" { said[form, $4] = $5 }
        END { for (k in said) { n++; split(k, a, SUBSEP)
                  if (!near(total[k], said[k]) || !near(said[k], said[1, a[2]])) print "total", k, total[k] }
              for (k in head) { n++; if (!near(head[k], part[1 SUBSEP k])) print k, head[k] }
              for (k in mlp) { n++; if (!near(mlp[k], part[1 SUBSEP k]) || !near(mlp[k], part[2 SUBSEP k])) print k, mlp[k] }
              if (n < 30) print n }' "$dir/out")
    if [ -z "$why" ]; then ok; else bad "the parts of --dla $edit" "$why $(cat "$dir/err")"; fi
done
while IFS='|' read -r saying arguments; do
    if "$mi" $arguments > "$dir/out" 2> "$dir/err" || [ $? -ne 2 ] || [ -s "$dir/out" ] ||
       ! grep -q -e "$saying" "$dir/err" || ! grep -q '^ *^$' "$dir/err"; then bad "$arguments" "$(cat "$dir/err")"; else ok; fi
done << 'END'
expected layers, tokens, or neurons|--dla=x
expected layers, tokens, or neurons|--dla=
expected layers, tokens, or neurons|--dla=L5H3
expected layers, tokens, or neurons|--dla=L5N3,L5H3
expected layers, tokens, or neurons|--dla=L5N3.mlp_pre
leave out the @|--dla=L5N*@3
layer 9 does not exist|--dla=L9N*
END
if [ "$("$mi" --dla layers --tsv)" = "$("$mi" --dla=layers --tsv)" ]; then ok; else bad "--dla layers" "is not --dla=layers"; fi

# The books balance, also under edits of the sums themselves: the command would fail otherwise
for edit in "--ablate L5H3" "--scale L3.resid_pre=1.3" "--scale L0.resid_pre=0.7" "--ablate L4.attn_out@-1" \
            "--noise L2.resid_mid=0.5" "--scale L5.resid_post@-1=1.5" "--ablate L4.mlp_out=mean" \
            "--scale embed@-1=2" "--scale ln_f_scale=1.1" "--freeze L5.ln1_scale --scale L4H3=2"; do
    if "$mi" --dla $edit --tsv > "$dir/out" 2> "$dir/err" &&
       why=$(awk -F'\t' '$1 == "metric" { said[$3] = $5 } $1 == "dla parts" && $3 == "sum" { sum[$4] = $5 }
           END { for (r in said) if ((said[r] - sum[r]) ^ 2 > 1e-7) print r, said[r], sum[r] }' "$dir/out") &&
       [ -z "$why" ]; then ok; else bad "--dla $edit" "$why $(cat "$dir/err")"; fi
done
# An edit of a sum of the stream is a part of its own: scaled by 1.3, it is 0.3 of what was there
"$mi" --dla --scale L3.resid_pre=1.3 --tsv | awk -F'\t' '
    $1 == "dla" && $4 == "edited" { if ($3 == "edit of L3.resid_pre") edit = $5
        else if ($3 ~ /^(embed|pos_embed|L[0-2])/) below += $5 }
    END { if ((edit - 0.3 * below) ^ 2 > 1e-6) print edit, 0.3 * below }' > "$dir/why"
if [ -s "$dir/why" ]; then bad "the part of an edit" "$(cat "$dir/why")"; else ok; fi
for wrong in "--answer Mary|John" "--answer Mary --versus 10-20" "Hello"; do
    if "$mi" $wrong --dla > "$dir/out" 2> "$dir/err" || [ -s "$dir/out" ] || ! grep -q -e '--dla attributes' "$dir/err"
    then bad "--dla $wrong" "$(head -n 1 "$dir/out" "$dir/err")"; else ok; fi
done
if "$mi" --data tests/data/ioi.tsv --rows 1-8 --dla --tsv > "$dir/out" 2> "$dir/err" &&
   grep -q '^dla heads		L5	H3	' "$dir/out"; then ok; else bad "--dla --data" "$(cat "$dir/err")"; fi

# --heads: what ablation of each head adds to the loss of the second copy
while IFS='	' read -r model n; do
    file=$golden/$model.safetensors
    [ "$model" != tiny ] || file=tiny.safetensors
    "$mi" -m "$file" --heads "$n" --tsv > "$dir/out" 2> "$dir/err"
    why=$(awk -F'\t' -v model="$model" 'FNR == NR { if ($1 == model) { want[$3] = $4; n++ } next }
        $1 == "heads loss" { n--; if (($5 - want[$8]) ^ 2 > 1e-10 * (1 + want[$8] ^ 2)) print $8, $5, want[$8]
            rise[$8] = $5 } $1 == "heads strongest" && $4 == "loss" { split($3, a, " ")
            if ($5 != rise[a[2]]) print $3, $5, rise[a[2]] } END { if (n) print n }' $golden/heads.golden "$dir/out")
    if [ -z "$why" ]; then ok; else bad "--heads of $model" "$why $(cat "$dir/err")"; fi
done << 'END'
odd7	12
half12	7
tiny	20
END
"$mi" --heads 2 --ablate L4H1 --tsv > "$dir/out" 2> "$dir/err"      # a head that is gone already adds nothing
why=$(awk -F'\t' '$1 == "heads loss" && $8 == "L4H1" { print $5 }' "$dir/out")
if [ "$why" = 0 ]; then ok; else bad "--heads with a head ablated" "$why $(cat "$dir/err")"; fi

# --attribute: what is linear in the site is foretold exactly; the exact column is --patch --each; and
# a small step towards the source changes what the gradient says
S="When Mary and John went to the store, Mary gave a drink to"
audit() { awk -F'\t' '$1 == "audit" && !/error/ { printf "%.4f ", $5 }' "$dir/out"; }
run() { "$mi" "$@" --tsv > "$dir/out" 2> "$dir/err" || bad "$*" "$(cat "$dir/err")"; }
run --source "$S" --attribute 'ln_f@*'
if [ "$(audit)" = "1.0000 1.0000 " ]; then ok; else bad "--attribute ln_f" "$(audit)"; fi
run --source "$S" --ablate L4H2 --attribute 'ln_f@*' --metric logit
if [ "$(audit)" = "1.0000 1.0000 " ]; then ok; else bad "--attribute ln_f under an edit" "$(audit)"; fi
for sites in heads 'L*.mlp_out@*' 'L2H*.pattern@-1' 'L1.resid_pre@9-13' 'L3H0-3.q@13'; do
    run --source "$S" --attribute "$sites"
    cp "$dir/out" "$dir/attributed"
    run --source "$S" --patch "$sites" --each
    why=$(awk -F'\t' '$1 == "cells" { cell[$8] = $5 } $1 == "metric" && $3 == "base" { base = $5 }
        $1 == "exact" { told[$8] = $5 } END {
            for (a in told) { n++; if ((cell[a] - base - told[a]) ^ 2 > 1e-12) print a, cell[a] - base, told[a] }
            if (!n) print "nothing" }' "$dir/out" "$dir/attributed")
    if [ -z "$why" ]; then ok; else bad "--attribute $sites" "$why"; fi
    run --source "$S" --patch "$sites=0.01" --each
    cp "$dir/out" "$dir/there"
    run --source "$S" --patch "$sites=-0.01" --each
    why=$(awk -F'\t' 'FNR == 1 { file++ } $1 == "cells" { cell[file, $8] = $5 } $1 == "attribution" { told[$8] = $5 }
        END { for (a in told) { slope = (cell[2, a] - cell[3, a]) / 0.02; n++
                  if ((slope - told[a]) ^ 2 > (0.02 * told[a]) ^ 2 + 1e-5) print a, slope, told[a] }
              if (!n) print "nothing" }' "$dir/attributed" "$dir/there" "$dir/out")
    if [ -z "$why" ]; then ok; else bad "the slope of $sites" "$why"; fi
done
for metric in prob logprob logit; do
    run --source "$S" --attribute 'ln_f@*' --metric $metric; cp "$dir/out" "$dir/attributed"
    run --source "$S" --patch 'ln_f@*=0.001' --each --metric $metric
    why=$(awk -F'\t' '$1 == "attribution" { told[$8] = $5 } $1 == "metric" && $3 == "base" { base = $5 }
        $1 == "cells" { cell[$8] = $5 } END { for (a in told) { slope = (cell[a] - base) / 0.001
            if ((slope - told[a]) ^ 2 > (0.05 * told[a]) ^ 2 + 1e-4) print a, slope, told[a] } }' "$dir/attributed" "$dir/out")
    if [ -z "$why" ]; then ok; else bad "the gradient of $metric" "$why"; fi
done
for wrong in "--metric kl" "--metric rank"; do
    if "$mi" --source "$S" --attribute heads $wrong > "$dir/out" 2> "$dir/err" || [ -s "$dir/out" ] ||
       ! grep -q 'has no gradient here' "$dir/err"; then bad "--attribute $wrong" "$(head -n 1 "$dir/err")"; else ok; fi
done

# Every node, edge and pattern anew is what PyTorch and TransformerLens say, with and without --steps
cut -f 1 $golden/attribution.golden | grep -v case | sort -u > "$dir/cases"
while read -r model; do
    IFS='	' read -r _ _ tokens source answer versus << END
$(grep "^case	$model	" $golden/attribution.golden)
END
    file=$golden/$model.safetensors
    [ "$model" != tiny ] || file=tiny.safetensors
    for steps in 0 5 3:left 2:right; do
        case $model-$steps in tiny-*:*) continue ;; esac
        : > "$dir/attributed"
        for sites in edges heads 'L*.mlp_out' embed 'L*H*.q' 'L*H*.k'; do
            case $steps-$sites in 0-*) ;; *.q | *.k) continue ;; esac
            set -- -m "$file" --tokens "$tokens" --source-tokens "$source" --answer "#$answer" --versus "#$versus"
            [ $steps = 0 ] || set -- "$@" --steps $steps
            run "$@" --attribute "$sites"
            cat "$dir/out" >> "$dir/attributed"
        done
        why=$(awk -F'\t' -v model="$model" -v steps=$steps '
            FNR == NR { if ($1 == model && $2 == steps) { want[$3, $4] = $5; n++ } next }
            $1 == "attribution" && $3 ~ />/ { got["edge", $3] = $5 }
            $1 == "pattern anew" { got["anew", $8] = $5 }
            $1 == "attribution" && $8 ~ /^(L[0-9]+H[0-9]+|L[0-9]+.mlp_out|embed)$/ { name = $8
                sub(/embed/, "input", name); sub(/L/, name ~ /H/ ? "a" : "m", name)
                sub(/H/, ".h", name); sub(/.mlp_out/, "", name); got["node", name] = $5 }
            END { for (k in want) { if (!(k in got)) print k " is missing"
                      else if ((got[k] - want[k]) ^ 2 > 1e-8 * (1 + want[k] ^ 2)) print k, got[k], want[k] }
                  if (!n) print "nothing" }' $golden/attribution.golden "$dir/attributed" | head -n 3)
        if [ -z "$why" ]; then ok; else bad "--attribute $model --steps $steps" "$why"; fi
    done
done < "$dir/cases"

# On the way to the source, the embeddings' gradients add up to all that changes, also under an edit
for edit in '--ablate L1H1' '--scale L0H2=1.5'; do
    run -m $golden/odd7.safetensors --tokens "32 33 34 32 33 35 40" --source-tokens "32 33 34 33 32 35 41" \
        --answer "#36" --versus "#37" --attribute embed --steps 200 $edit
    why=$(awk -F'\t' '$1 == "attribution" { told = $5 } $1 == "exact" { exact = $5 }
        END { if (!exact || (told - exact) ^ 2 > 1e-8) print told, exact }' "$dir/out")
    if [ -z "$why" ]; then ok; else bad "completeness $edit" "$why"; fi
done

# What needs no reference: a writer's edges add up to its node, also without a source, where a small
# step to 0 is the attribution and --ablate the exact column; exact edges are those of --edges
edge_sums() {                       # FLAGS: in $dir/edges those of the writers, beside their nodes
    run "$@" --attribute edges; cp "$dir/out" "$dir/edges"
    run "$@" --attribute heads; cp "$dir/out" "$dir/heads"
    run "$@" --attribute 'L*.mlp_out'
    why=$(awk -F'\t' '$1 != "attribution" { next } $3 ~ />/ { split($3, at, "->"); sum[at[1]] += $5; next }
        $8 { name = $8; sub(/L/, name ~ /H/ ? "a" : "m", name); sub(/H/, ".h", name); sub(/.mlp_out/, "", name)
            if (!(name in sum) || (sum[name] - $5) ^ 2 > 1e-10 * (1 + $5 ^ 2)) print name, sum[name], $5; n++ }
        END { if (n != 30) print n " nodes" }' "$dir/edges" "$dir/heads" "$dir/out" | head -n 3)
    if [ -z "$why" ]; then ok; else bad "the sums of edges $*" "$why"; fi
}
edge_sums --source "$S"
run --source "$S" --edges
why=$(awk -F'\t' '$1 == "metric" { said[$3] = $5 } $1 == "exact" { exact[$3] = $5 }
    $1 == "edges" { n++; change = $5 * (said["source"] - said["base"])
        if ((exact[$3] - change) ^ 2 > 1e-10) print $3, exact[$3], change } END { if (n != 1108) print n }' \
    "$dir/edges" "$dir/out" | head -n 3)
if [ -z "$why" ]; then ok; else bad "the exact column of edges" "$why"; fi
edge_sums
for flags in '--ablate heads' '--scale heads=1.01' '--scale heads=0.99'; do
    run $flags --each; cp "$dir/out" "$dir/${flags#*=}"
done
why=$(awk -F'\t' 'FNR == 1 { file++ } $1 == "attribution" { told[$8] = $5 } $1 == "exact" { exact[$8] = $5 }
    $1 == "change" { change[file, $8] = $5 } END { for (a in told) { n++; slope = (change[4, a] - change[3, a]) / 0.02
        if (change[2, a] != exact[a]) print a, change[2, a], exact[a]
        if ((slope - told[a]) ^ 2 > (0.02 * told[a]) ^ 2 + 1e-5) print a, slope, told[a] } if (n != 24) print n }' \
    "$dir/heads" "$dir/--ablate heads" "$dir/1.01" "$dir/0.99" | head -n 3)
if [ -z "$why" ]; then ok; else bad "--attribute without a source" "$why"; fi
# Why: patched, the softmax of a head's own queries says what the pattern anew says; another head's
# flat pattern is what hides L4H3
run --source "$S" --attribute 'L5H*.q'
why=$(awk -F'\t' '$1 == "pattern anew" { anew[$8] = $5 } $1 == "why" && $4 == "weight" && $5 < 0.99 { print }
    $1 == "why" && $4 == "truth" { n++; at = $3; sub(/,.*/, "", at); if ((anew[at] - $5) ^ 2 > 1e-8) print at, $5, anew[at] }
    END { if (!n) print "nothing" }' "$dir/out")
if [ -z "$why" ]; then ok; else bad "the pattern anew" "$why"; fi
run --source "$S" --attribute heads
if grep -q '^why		L4H3, L5H3.pattern@13:1	weight	0.99999' "$dir/out"; then ok; else
    bad "why" "$(grep '^why' "$dir/out" | head -n 1)"; fi
# Over many prompts the audit is that of the means
run --data tests/data/ioi.tsv --rows 1-6 --attribute heads
why=$(awk -F'\t' '$1 == "attribution" { told[$8] = $5 } $1 == "exact" { n++; x = told[$8]; y = $5
        t += x; e += y; tt += x * x; te += x * y; ee += y * y } $1 == "audit" { audit[$3] = $5 }
    END { r = (te - t * e / n) / sqrt((tt - t * t / n) * (ee - e * e / n))
        if (n != 24 || (audit["correlation"] - r) ^ 2 > 1e-10 || (audit["slope"] - te / tt) ^ 2 > 1e-10)
            print n, audit["correlation"], r, audit["slope"], te / tt }' "$dir/out")
if [ -z "$why" ] && grep -q '^worst		L0H1	exact	[-0-9.]*	[0-9.]' "$dir/out"; then ok; else bad "--attribute --data" "$why"; fi
# What takes too long is left out, and said
"$mi" --tokens "$(yes '464 3290' | head -n 30 | tr '\n' ' ')" --answer '#464' --attribute 'L*N*@*' > "$dir/out" 2>&1
if grep -q 'nothing exact beside' "$dir/out"; then ok; else bad "a long --attribute" "$(head -n 1 "$dir/out")"; fi
while IFS='|' read -r saying flags; do
    if eval "\"\$mi\" $flags" > "$dir/out" 2> "$dir/err" || [ -s "$dir/out" ] ||
       ! grep -q -e "$saying" "$dir/err"; then bad "$flags" "$(head -n 1 "$dir/err")"; else ok; fi
done << 'END'
expected N, N:left or|--source same --attribute heads --steps 5:middle
expected N, N:left or|--source same --attribute heads --steps 0
needs --source|--attribute heads --steps 5
are for --attribute|--steps 5
leave out|--attribute edges --ablate L5H3
expected an address|--attribute heads,edges
END

# --edges: each edge of a random model, and what needs no reference
run -m $golden/odd7.safetensors --tokens "32 33 34 32 33 35 40" --source-tokens "32 33 34 33 32 35 41" \
    --answer "#36" --versus "#37" --edges
why=$(awk -F'\t' 'FNR == NR { want[$1] = $2; n++; next } $1 == "metric" { said[$3] = $5 }
    $1 == "edges" { got[$3] = $5 } END { whole = said["source"] - said["base"]
        for (e in want) { change = got[e] * whole; if (!(e in got)) print e " is missing"
            else if ((change - want[e]) ^ 2 > 1e-9 * (1 + want[e] ^ 2)) print e, change, want[e] }
        for (e in got) if (!(e in want)) print e " is none" }' $golden/edges.golden "$dir/out")
if [ -z "$why" ]; then ok; else bad "--edges" "$why"; fi
run --source same --edges
why=$(awk -F'\t' '$1 == "edges" { n++ } END { if (n) print n }' "$dir/out")
if [ -z "$why" ] || [ "$(awk -F'\t' '$1 == "edges" && $5 != "nan"' "$dir/out")" = "" ]; then ok; else bad "edges of the same prompt" "$why"; fi
run --source "$S" --edges
[ "$(grep -c '^edges' "$dir/out")" = 1108 ] && ok || bad "edges of tiny" "$(grep -c '^edges' "$dir/out")"
awk -F'\t' '$1 == "edges" && $3 ~ /^a5|^m5/ && $3 !~ /logits$|^a5.*->m5$/' "$dir/out" > "$dir/why"
[ -s "$dir/why" ] && bad "an edge down" "$(head -1 "$dir/why")" || ok
if "$mi" --source "$S" --edges --ablate L5H3 > "$dir/out" 2> "$dir/err" || ! grep -q 'leave out' "$dir/err"; then
    bad "--edges with an edit" "$(head -n 1 "$dir/err")"; else ok; fi
if "$mi" --data tests/data/ioi.tsv --rows 1-3 --edges --tsv > "$dir/out" 2> "$dir/err" &&
   [ "$(grep -c '^edges		' "$dir/out")" = 1108 ]; then ok; else bad "--edges --data" "$(cat "$dir/err")"; fi

# --path with the MLPs frozen is an edge, to the bit; into a reader below the sender nothing comes
run --source "$S" --edges; cp "$dir/out" "$dir/edges"
same_edges() {                      # READER: the path of each head is the edge into it
    why=$(awk -F'\t' -v reader="$1" 'FNR == NR { edge[$3] = $5; next } $1 == "path" {
        n++; name = $8; sub(/L/, "a", name); sub(/H/, ".h", name); name = name "->" reader
        if ((name in edge ? edge[name] : 0) != $5) print name, edge[name], $5 } END { if (n != 24) print n " heads" }' \
        "$dir/edges" "$dir/out")
    if [ -z "$why" ]; then ok; else bad "--path into $1" "$why"; fi
}
run --source "$S" --path heads --freeze-mlps; same_edges logits
run --source "$S" --path heads --freeze-mlps --into L5H3.q; same_edges 'a5.h3<q>'
run --source "$S" --path heads --freeze-mlps --into L3H0.v; same_edges 'a3.h0<v>'
run --source "$S" --path heads --freeze-mlps --into L4.ln2; same_edges m4
run --source "$S" --path mlps; a=$(awk -F'\t' '$8 == "L5.mlp_out" { print $5 }' "$dir/out")
b=$(awk -F'\t' '$3 == "m5->logits" { print $5 }' "$dir/edges")
if [ -n "$a" ] && [ "$a" = "$b" ]; then ok; else bad "--path of the last MLP" "$a, not $b"; fi
run --source "$S" --path L4H3 --into L5H3.q
if grep -q '^path			' "$dir/out" || grep -q '^path' "$dir/out"; then ok; else bad "--path of one head" "no table"; fi
while IFS='|' read -r saying flags; do
    if eval "\"\$mi\" --source \"\$S\" $flags" > "$dir/out" 2> "$dir/err" || [ -s "$dir/out" ] ||
       ! grep -q -e "$saying" "$dir/err"; then bad "$flags" "$(head -n 1 "$dir/err")"; else ok; fi
done << 'END'
a sender is|--path L5H3.q
a receiver reads|--path heads --into L5H3
leave out|--path heads --ablate L5H3
are for --path|--into logits
END

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
