# Three processes at least, each with state of its own, joined by pipes.
count() {
    n=0
    while [ "$n" -lt "$STEPS" ]; do
        n=$((n + 1))
        echo "$n"
        sleep "$PAUSE"
    done
}
count | sed -u 's/^/line /' | while read -r line; do
    sum=$((${sum:-0} + ${line#line }))
    echo "$line, sum $sum"
    echo "$line" >>lines
done
