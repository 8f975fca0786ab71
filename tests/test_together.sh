#!/bin/sh
# test_together.sh - every readout of $MI with every kind of edit, over a table of prompts, beside
# others, in every form: it ends well, and of one row it says what it says of that prompt alone. Under
# sanitizers this finds what is read after it was moved or freed. Run it from the repository root.

. tests/scratch.sh
set -f
model=tests/golden/odd7.safetensors
table=$dir/table.tsv
{
    printf 'prompt\tsource\tanswer\tversus\tS\tgroup\n'
    printf 'ABCABD\tABDABD\tA\tB\t2\tx\n'
    printf 'BCABDA\tBDABDA\tC\tD\tC\tx\n'
    printf 'CABDAB\tDABDAB\tB\tA\t-1\ty\n'
    printf 'DABCAA\tDABDAA\tD\tC\t1\tz\n'
} > "$table"

edits='--ablate L0H1
--ablate L1H0=mean --scale L0N3=2
--patch L1H1@S
--knockout L1H1@-1:S
--noise embed=0.1 --samples 2
--steer L1.resid_pre=2 --direction random:1
--freeze L1.mlp_out --project L0.resid_mid --direction random:2
--scale L1H1=3e38'
readouts='--metric rank
--dla
--dla layers
--dla tokens
--dla L0N*
--lens
--lens final
--loss
--neurons L1 -k 2
--weights L0H1
--attn L1H*
--attribute heads
--attribute L0H0-1@S --steps 2
--metric kl
--metric prob --dla'
alone='--attribute edges
--edges
--path heads --into L1H0.q
--path L0H* --into logits --freeze-mlps
--circuit L0H0,L1H1
--circuit L0H0,L1H1=mean
--ablate heads --each
--ablate heads --each --dla --lens --loss
--patch L*.resid_pre@* --each --attn L0H0
--ablate heads --each --stability 2'
together='--dla --lens --loss --attn L0H* --neurons L1 --weights L1H1 -k 2
--attribute heads --dla tokens --lens final --loss
--loss --neurons L0N3 --dla L1N* --attribute mlps --steps 2'

# NAME: it ended with status 0, said something, and a sanitizer said nothing
ended() {
    if [ $status -eq 0 ] && [ -s "$dir/out" ] && ! grep -qE 'Sanitizer|runtime error' "$dir/err"
    then ok; else bad "$1" "status $status: $(head -n 3 "$dir/err")"; fi
}
over() {                            # ARGUMENT...: over the table
    "$mi" -m $model --data "$table" "$@" > "$dir/out" 2> "$dir/err"
    status=$?
    ended "--data $*"
}

# Over the table, each readout with each edit; then several readouts at once, in every form
while read -r readout; do
    over $readout --tsv
    while read -r edit; do
        case "$edit $readout" in *3e38*--dla*) continue ;; esac     # its sum would be none
        over $edit $readout --tsv
    done <<END
$edits
END
done <<END
$readouts
END
while read -r readout; do
    for form in --tsv "--tsv --per-prompt" --json "--svg $dir/x.svg" "--color always"; do
        over $readout $form
        over --ablate L0H1 --patch L1H1@S $readout $form
    done
done <<END
$together
END
while read -r readout; do
    for form in --tsv "--tsv --per-prompt" --json "--svg $dir/x.svg"; do over $readout $form; done
done <<END
$alone
END

# Of one row of the table: what the prompt alone has under the same names, to nine digits
while read -r readout; do
    while read -r edit; do
        over --rows 3-3 $edit $readout --tsv
        mv "$dir/out" "$dir/row"
        case "$edit $readout" in *patch*|*attribute*) source='--source DABDAB' ;; *) source= ;; esac
        "$mi" -m $model CABDAB $source --answer B --versus A $edit $readout --tsv \
            > "$dir/out" 2> "$dir/err"
        status=$?
        ended "$edit $readout"
        why=$(awk -F'\t' '{ name = $1 FS $3 FS $4 } FNR == NR { of_row[name] = $5; next }
            name in of_row { n++; off = $5 - of_row[name]
                             if ($5 != of_row[name] && off * off > 1e-16 * $5 * $5)
                                 print name, of_row[name], $5 }
            END { if (n < 3) print n + 0 " names in common" }' "$dir/row" "$dir/out" | head -n 3)
        if [ -z "$why" ]; then ok; else bad "a row and its prompt, $edit $readout" "$why"; fi
    done <<END
--ablate L0H1
--patch L1H1
--freeze L1.mlp_out --project L0.resid_mid --direction random:2
END
done <<END
$(printf '%s\n' "$readouts" | grep -v '@S')
END

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
