#!/bin/sh
# Builds helm and kubeconform into var/tools where Go is, for the tests of the chart; a few minutes, once.
set -eu
cd "$(dirname "$0")/../.."

if [ -x var/tools/helm ] && [ -x var/tools/kubeconform ]; then
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "no Go here: the tests of the Helm chart are left out"
    exit 0
fi
echo "building helm and kubeconform"
GOBIN="$PWD/var/tools" CGO_ENABLED=0 go install -trimpath -ldflags=-s \
    helm.sh/helm/v3/cmd/helm@v3.17.3
GOBIN="$PWD/var/tools" CGO_ENABLED=0 go install -trimpath -ldflags=-s \
    github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0
