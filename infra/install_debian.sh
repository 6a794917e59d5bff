#!/bin/sh
# Installs missing programs for the integration tests: Redis, Java and Maven (for Kafka), Prometheus, and a browser.
# Without root or apt-get, prints what to install; the tests that need it are skipped.
set -eu

missing=""
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v java >/dev/null || missing="$missing openjdk-17-jre-headless"
command -v mvn >/dev/null || missing="$missing maven"
command -v prometheus >/dev/null || missing="$missing prometheus"
command -v chromium >/dev/null || missing="$missing chromium"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing:$missing"
    apt-get update -q >/dev/null
    # The tests start their own services: keep the packages from starting any.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # shellcheck disable=SC2086  a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing >/dev/null
else
    echo "missing, and this user cannot install packages:$missing"
    echo "tests that need them are skipped; to run them: apt-get install$missing"
fi
