#!/bin/sh
# Builds the validators of the Helm chart and the compose file into var/tools. Needs Go; takes a few minutes, once.
set -eu
cd "$(dirname "$0")/.."

tools="$PWD/var/tools"
build() { # name, package@version
    [ ! -x "$tools/$1" ] || return 0
    echo "building $1"
    GOBIN="$tools/build" CGO_ENABLED=0 go install -trimpath -ldflags=-s "$2"
    mv "$tools/build/"* "$tools/$1"
}

if ! command -v go >/dev/null; then
    echo "Go is not installed: tests that validate the Helm chart and the compose file are skipped"
    exit 0
fi
build helm helm.sh/helm/v3/cmd/helm@v3.17.3
build kubeconform github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0
build compose-go github.com/compose-spec/compose-go/v2/cmd@v2.9.0 # the loader of Docker Compose
