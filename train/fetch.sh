#!/bin/sh
# fetch.sh URL BYTES SHA256 FILE: download FILE, resuming if a part of it is there, and give it its
# name only when its size and its SHA-256 are right.
url=$1 bytes=$2 sha256=$3 file=$4
part=$file.part

command -v curl >/dev/null || { echo "make gpt2 needs curl; or download $url yourself to $file"; exit 1; }
size() { [ -f "$part" ] && wc -c <"$part" | tr -d " "; }
if [ "$(size)" != "$bytes" ]; then
    curl -L --fail --retry 3 -C - -o "$part" "$url" || {
        echo "The download stopped; make gpt2 goes on where it was."
        exit 1
    }
fi
if [ "$(size)" != "$bytes" ]; then
    echo "$part has $(size) bytes instead of $bytes. Remove it and try again."
    exit 1
fi
if command -v sha256sum >/dev/null; then sum=$(sha256sum "$part")
elif command -v shasum >/dev/null; then sum=$(shasum -a 256 "$part")
else echo "No sha256 tool here: the file is not checked."; sum=$sha256
fi
if [ "${sum%% *}" != "$sha256" ]; then
    echo "$part is not the file that it should be (its SHA-256 differs). Remove it and try again."
    exit 1
fi
mv "$part" "$file"
