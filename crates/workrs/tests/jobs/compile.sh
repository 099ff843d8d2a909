# Compiles every file of src, links them and runs the program.
set -e
for source in src/*.c; do
    gcc -O2 -c "$source" -o "$(basename "$source" .c).o"
    echo "compiled $source"
    sleep "$LONG_PAUSE"
done
gcc -o program ./*.o
./program >result
cat result
