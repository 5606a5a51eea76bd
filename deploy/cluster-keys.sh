#!/bin/bash
# What the members of a cluster need to trust each other (docs/security.md), made once: cluster-keys.sh FOLDER ADDRESS...
# The certificate holds for all these IP addresses. The authority's key is not kept, so nobody can add to them later.
set -euo pipefail
umask 077
folder=$1
shift
[[ -s $folder/token && -s $folder/node.crt ]] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=fusetune cluster" -keyout ca.key -out ca.crt
openssl req -newkey rsa:3072 -nodes -subj "/CN=fusetune member" -keyout node.key -out node.csr
names="subjectAltName=IP:127.0.0.1"
for address in "$@"; do names+=",IP:$address"; done
echo "$names" >node.ext
openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile node.ext -out node.crt
openssl rand -hex 32 >token
cp ca.crt node.crt node.key "$folder"
mv token "$folder" # last: whoever finds it finds the others
