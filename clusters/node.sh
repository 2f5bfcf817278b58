#!/usr/bin/env bash
# What `ray up` runs on the nodes of a cluster. All that it makes lies in ~/.raylab:
#   code/    raylab, synced by `ray up`       venv/    the virtual environment of all of it
#   mlflow/  MLflow's database, artifacts, login and log, on the head
#   env      on the head, while the cluster runs: where storage, Ray and MLflow are
#
#   node.sh install            every node: the environment, again only where the dependencies have changed
#   node.sh head STORAGE       the head, before `ray start`: the token, ~/.raylab/env and the MLflow server
#   node.sh ready              the head, after `ray start`: waits until MLflow answers
#
# RAYLAB_PYTHON names a Python to install into instead of a new virtual environment: an image's own.
# RAYLAB_EXTRAS are raylab's extras to install (default: cluster).
set -euo pipefail

home=$HOME/.raylab
code=$home/code
venv=$home/venv

fail() {
    echo "raylab: $*" >&2
    exit 1
}

# The first Python that is new enough; Ray wants the same version on all nodes.
find_python() {
    local name
    for name in python3 python3.11 python3.12 python3.13 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer on $(hostname): install one, the same on all nodes"
}

install() {
    local python=${RAYLAB_PYTHON:-} stamp
    stamp=$( (cd "$code" && cat pyproject.toml constraints.txt && echo "${RAYLAB_EXTRAS:-cluster}") | sha256sum | cut -d' ' -f1)
    make_profile
    if [ -z "$python" ]; then
        python=$venv/bin/python
        if [ ! -x "$python" ]; then
            "$(find_python)" -m venv "$venv" ||
                fail "no virtual environment could be made on $(hostname) (Debian, Ubuntu: apt install python3-venv)"
            "$python" -m pip install --quiet --upgrade pip  # Debian's is too old for some packages
        fi
    fi
    if [ "$(cat "$home/installed" 2> /dev/null)" != "$stamp" ]; then
        (cd "$code" && "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[${RAYLAB_EXTRAS:-cluster}]")
        echo "$stamp" > "$home/installed"
    fi
}

# `ray exec`, `ray attach` and `ray down` find `ray` and `python` on the PATH of a login shell. A terminal opened on the
# machine itself is left as it is: only shells that came by ssh, or run in a container, read the profile.
make_profile() {
    cat > "$home/profile" << 'PROFILE'
if [ -n "${SSH_CONNECTION:-}" ] || [ -f /.dockerenv ]; then
    [ -d ~/.raylab/venv/bin ] && PATH=~/.raylab/venv/bin:$PATH
    [ -f ~/.raylab/env ] && . ~/.raylab/env
fi
true
PROFILE
    if ! grep -qs '\.raylab/profile' ~/.bashrc; then
        echo '[ ! -f ~/.raylab/profile ] || . ~/.raylab/profile  # the raylab cluster' >> ~/.bashrc
    fi
}

# Ray's token guards every port of the cluster; the head makes it, and the autoscaler syncs it to the workers.
prepare_head() {
    umask 077
    [ -s ~/.ray/auth_token ] || RAY_AUTH_MODE=token ray get-auth-token --generate &> /dev/null
    chmod 600 ~/.ray/auth_token
    python "$code/clusters/head.py" start --storage "$1"
}

mkdir -p "$home"
chmod 700 "$home"
case ${1:-} in
    install) install ;;
    head) prepare_head "${2:?the storage}" ;;
    ready) python "$code/clusters/head.py" wait ;;
    *) fail "usage: node.sh install | head STORAGE | ready" ;;
esac
