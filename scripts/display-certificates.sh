#!/bin/sh
# Makes the certificates of machines' displays (SPICE and VNC over TLS): an authority of one's own, and the daemon's.
#   scripts/display-certificates.sh DIR NAME…     NAME: what viewers call this host, such as vm.example.org or 192.0.2.7
# Viewers get DIR/ca-cert.pem. Run again it keeps the authority and makes a new certificate for the daemon.
set -eu
[ $# -ge 2 ] || { echo "usage: $0 DIR NAME…" >&2; exit 2; }
command -v openssl >/dev/null || { echo "$0: openssl is missing (apt install openssl)" >&2; exit 1; }
directory=$1
shift
umask 077
mkdir -p "$directory"
cd "$directory"

[ -e ca-key.pem ] || openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=Corral displays on $1" \
	-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
	-keyout ca-key.pem -out ca-cert.pem 2>/dev/null

names=
for name; do
	case $name in
	*[!0-9.]*) kind=DNS ;;
	*) kind=IP ;;
	esac
	case $name in *:*) kind=IP ;; esac
	names="$names${names:+,}$kind:$name"
done
openssl req -newkey rsa:3072 -nodes -subj "/CN=$1" -keyout server-key.new -out server.csr 2>/dev/null
cat >server.ext <<END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth
subjectAltName=$names
END
openssl x509 -req -days 825 -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -extfile server.ext \
	-out server-cert.new 2>/dev/null
mv server-key.new server-key.pem
mv server-cert.new server-cert.pem
rm -f server.csr server.ext ca-cert.srl
chmod 644 ca-cert.pem server-cert.pem
echo "made $directory/server-cert.pem for $*; viewers need $directory/ca-cert.pem"
