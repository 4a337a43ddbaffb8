#!/bin/sh
# Unpacks Debian packages into the layers of an image to measure with: images.sh NAME DIR makes DIR/1.tar, DIR/2.tar, …
# Each layer is packages with what they depend on, without what the layers below have. Needs root (owners), apt with a
# Debian mirror, and dpkg. The versions are the mirror's of the day: results are ratios measured beside each other on the
# same data, so they need not be the same everywhere.
set -eu

name=$1 dir=$2
case $name in
middle) set -- 'bash coreutils python3' \
    'python3-pandas python3-requests python3-cryptography python3-lxml python3-sqlalchemy python3-dev gcc' ;;
large) set -- 'bash coreutils python3 perl' 'python3-pandas' 'gcc g++' 'gdb cmake' 'python3-scipy' 'clang-14 llvm-14-dev' 'git valgrind' ;;
*) echo 'usage: images.sh middle|large DIR' >&2; exit 2 ;;
esac

mkdir -p "$dir"
cd "$dir"
# To apt nothing is installed, so that it names all that the packages need.
: >nothing
: >have
wanted= number=0
for packages in "$@"; do
    number=$((number + 1)) wanted="$wanted $packages"
    # shellcheck disable=SC2086 # a list of words
    apt-get -qq --simulate -o Dir::State::status="$PWD/nothing" -o APT::Install-Recommends=no install $wanted |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p' | sort -u >all
    comm -23 all have >new
    cp all have
    mkdir -p debs tree
    (cd debs && xargs apt-get -qq -o APT::Sandbox::User=root download <../new)
    for deb in debs/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C tree -f -
    done
    tar -c --sort=name --mtime=@0 --numeric-owner -C tree -f "$number.tar" .
    rm -r tree debs
done
rm all new have nothing
