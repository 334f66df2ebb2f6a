#!/bin/bash
# Makes what the kernel tests boot: Debian's kernel as it is packaged, and an
# initramfs with dash, busybox, ip, iperf3 and the agent of this directory.
#
#   image.sh DIRECTORY     writes DIRECTORY/vmlinuz, initrd and release
#
# The kernel package is downloaded once and kept, unpacked, in
# ${XDG_CACHE_HOME:-~/.cache}/icvpn-kernel-vm. ICVPN_KERNEL_PACKAGE names another
# one than linux-image-cloud-amd64. Needed: apt-get, busybox-static, cpio,
# dash, iperf3, iproute2, kmod, xz-utils, Go. It changes nothing outside these two
# directories and needs no privilege.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
image=${1:?usage: image.sh DIRECTORY}
package=${ICVPN_KERNEL_PACKAGE:-linux-image-cloud-amd64}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/icvpn-kernel-vm

if [ "$(uname -m)" != x86_64 ]; then
	echo "image.sh: the virtual machine is an amd64 one and runs on amd64 only; this machine is $(uname -m)" >&2
	exit 1
fi

# Modules of the peer, those that others use while they load first: nothing can
# load them later. Those a kernel has built in, or does not have, are left out:
# what the kernel cannot do then shows in the tests.
modules=(
	virtio_pci virtio_net virtio_console veth
	cbc gcm ctr hmac aes_generic aesni-intel ghash-generic ghash-clmulni-intel
	sha256_generic sha256-ssse3 sha512_generic sha512-ssse3
	chacha20poly1305 chacha_generic chacha-x86_64 poly1305_generic poly1305-x86_64
	sha3_generic jitterentropy_rng drbg # the random numbers that IVs are made from
	algboss seqiv echainiv authenc authencesn
	xfrm_user esp4 esp6
)

# A meta package leads to the kernel of the day.
resolve() {
	local next
	next=$(apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n1)
	echo "${next:-$1}"
}

# unpack PACKAGE prints the directory with its files. The name of the directory
# holds the version, and it appears when it is whole.
unpack() {
	local version dir scratch
	version=$(apt-cache policy "$1" | sed -n 's/^ *Candidate: //p')
	if [ -z "$version" ] || [ "$version" = '(none)' ]; then
		echo "image.sh: there is no package $1; run apt-get update, or name another kernel in ICVPN_KERNEL_PACKAGE" >&2
		return 1
	fi
	dir=$cache/$1_${version//:/_}
	if [ ! -e "$dir" ]; then
		echo "downloading $1 $version" >&2
		mkdir -p "$cache"
		scratch=$(mktemp -d "$cache/.new.XXXXXX")
		# As root apt downloads as a user of its own, who must be able to write.
		chmod 755 "$scratch"
		(cd "$scratch" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg-deb -x ./*.deb tree)
		mv -T "$scratch/tree" "$dir" 2>/dev/null || [ -e "$dir" ]
		rm -rf "$scratch"
	fi
	echo "$dir"
}

# add_program copies a program with the libraries that it is linked with.
add_program() {
	cp -L "$1" "$root/bin/"
	{ ldd "$1" 2>/dev/null || true; } | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p' | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -Lu "$library" "$root$library"
	done
}

# add_modules copies modules and what they depend on, in the order of loading.
add_modules() {
	local tree=$1 release=$2 module file name
	[ -e "$tree/lib/modules/$release/modules.dep" ] || depmod -b "$tree" "$release"
	for module in "${modules[@]}"; do
		modprobe -d "$tree" -S "$release" --show-depends "$module" 2>/dev/null || true
	done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
		name=$(basename "${file%.xz}")
		case $file in
		*.xz) xz -dc "$file" >"$root/modules/$name" ;;
		*) cp "$file" "$root/modules/$name" ;;
		esac
		echo "/modules/$name"
	done >"$root/modules/order"
}

kernel=$(unpack "$(resolve "$package")")
release=$(basename "$kernel"/lib/modules/*)
mkdir -p "$image"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,dev,etc,modules,proc,run,sys,tmp,var/run}
# Not busybox's own shell: that would take its applet for ip instead of the real one.
add_program "$(command -v busybox)"
for applet in cat grep head kill mkdir sed sleep sysctl; do
	ln -s busybox "$root/bin/$applet"
done
add_program /bin/dash
ln -s dash "$root/bin/sh"
for program in ip iperf3; do
	add_program "$(PATH=$PATH:/usr/sbin:/sbin command -v "$program")"
done
add_modules "$kernel" "$release"
(cd "$here" && CGO_ENABLED=0 GOARCH=amd64 GOOS=linux go build -trimpath -ldflags '-s -w' -o "$root/init" ./agent)

(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$image/initrd"
cp "$kernel/boot/vmlinuz-$release" "$image/vmlinuz"
echo "$release" >"$image/release"
