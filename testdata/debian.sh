#!/bin/sh
# Makes the two layers of a real distribution: `debian.sh DIR ARCH` writes DIR/base.tar (Debian bookworm, minbase) and
# DIR/python.tar (what `apt-get install python3-minimal && rm /etc/motd` changed, whiteouts included). Needs root.
# Programs of another architecture than this machine's cannot be run here: such packages are unpacked, not configured.
# The mirror is the one that this machine's apt is configured with.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive TZ=UTC
umask 022

suite=bookworm
package=python3-minimal
out=$1
arch=$2
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

[ "$(id -u)" = 0 ] || { echo "error: debian.sh needs root: debootstrap makes files of several owners" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "error: install the package debootstrap" >&2; exit 1; }

# The first mirror of apt's that has a Debian release proper.
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^\(bookworm\|trixie\|forky\|sid\|oldstable\|stable\|testing\|unstable\) main //p' | head -n 1)
[ -n "$mirror" ] || { echo "error: no Debian mirror among apt's sources" >&2; exit 1; }

# What every container image leaves out, and what only costs memory in a booted one.
slim() {
    rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/var/cache/debconf/*-old \
        "$1"/var/lib/dpkg/*-old "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/info/* \
        "$1"/usr/share/locale/* "$1"/var/cache/ldconfig/* "$1"/tmp/*
}

# One line a file; two trees differ where these lines differ.
facts() {
    (cd "$1" && find . -mindepth 1 \( -path './dev/*' -o -path './proc/*' -o -path './sys/*' \) -prune -o \
        -printf '%P\t%y %m %U:%G %s %T@ %l\n' | sort)
}

pack() {
    tar --create --numeric-owner --sort=name --format=posix --pax-option=delete=atime,delete=ctime \
        --directory="$1" --file="$2" --no-recursion --null --verbatim-files-from --files-from=-
}

bootstrap() { # OPTION...
    debootstrap --variant=minbase --arch="$arch" "$@" "$suite" "$work/base" "$mirror" >"$out/debootstrap.log" 2>&1 ||
        { tail -n 20 "$out/debootstrap.log" >&2; exit 1; }
    rm -rf "$work/base/debootstrap"
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n' >"$work/base/etc/hosts"
    rm -f "$work/base/etc/resolv.conf" "$work/base/etc/hostname"
}

# The second layer is made by apt in the chroot, with this machine's proxy and resolver for as long as it takes.
configured() {
    bootstrap
    cp -a "$work/base" "$work/python"
    apt-config dump | grep -E '^Acquire::(http|https)::' >"$work/python/etc/apt/apt.conf.d/zz-host" || true
    cp -L /etc/resolv.conf "$work/python/etc/resolv.conf"
    {
        chroot "$work/python" apt-get -o Dpkg::Use-Pty=0 update
        chroot "$work/python" apt-get -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "$package"
    } >"$out/apt.log" 2>&1 || { tail -n 20 "$out/apt.log" >&2; exit 1; }
    rm -f "$work/python/etc/resolv.conf" "$work/python/etc/apt/apt.conf.d/zz-host"
}

# Both layers are what the packages have, and the few files without which nobody logs in or is greeted.
unpacked() {
    bootstrap --foreign --include="$package"
    mv "$work/base/var/cache/apt/archives" "$work/archives"
    # A link to this machine's, for the stage that is left out.
    rm "$work/base/proc"
    mkdir "$work/base/proc"
    for deb in "$work"/archives/*.deb; do
        case $deb in *python3*) ;; *) unpack "$deb" "$work/base" ;; esac
    done
    for name in passwd group; do
        cp "$work/base/usr/share/base-passwd/$name.master" "$work/base/etc/$name"
    done
    cp "$work/base/usr/share/base-files/motd" "$work/base/etc/motd"
    cp -a "$work/base" "$work/python"
    for deb in "$work"/archives/*python3*.deb; do
        unpack "$deb" "$work/python"
    done
}

# /bin and /lib stay the links that they are.
unpack() { # DEB DIR
    dpkg-deb --fsys-tarfile "$1" >"$work/data.tar"
    tar --extract --keep-directory-symlink --same-permissions --numeric-owner --file="$work/data.tar" --directory="$2"
}

if [ "$arch" = "$(dpkg --print-architecture)" ]; then configured; else unpacked; fi
# As `RUN rm /etc/motd`: a whiteout in any case.
rm "$work/python/etc/motd"

slim "$work/base"
slim "$work/python"
facts "$work/base" >"$work/base.facts"
facts "$work/python" >"$work/python.facts"

cut -f 1 "$work/base.facts" | tr '\n' '\0' | pack "$work/base" "$out/base.tar"

# Whiteouts: names that only the base has, each as an empty `.wh.` file, topmost ones only.
cut -f 1 "$work/base.facts" | sort >"$work/base.names"
cut -f 1 "$work/python.facts" | sort >"$work/python.names"
comm -23 "$work/base.names" "$work/python.names" | while IFS= read -r name; do
    dir=$(dirname "$name")
    [ -d "$work/python/$dir" ] || continue
    : >"$work/python/$dir/.wh.$(basename "$name")"
    printf '%s/.wh.%s\n' "$dir" "$(basename "$name")"
done >"$work/whiteouts"
comm -13 "$work/base.facts" "$work/python.facts" | cut -f 1 | cat - "$work/whiteouts" | sort | tr '\n' '\0' |
    pack "$work/python" "$out/python.tar"
