#!/bin/sh
# Installs the program of this archive. To upgrade, run it again: it never overwrites a config.
#
#   as root            PREFIX/bin, /etc, /var/lib, a systemd unit; nothing is started that is not configured
#   as another user    ~/.local/bin, ~/.config, ~/.local/state; the command that adds the service is printed and saved
set -eu
umask 022

usage() {
    cat <<'EOF'
Usage: sh install.sh [--prefix DIR] [--uninstall] [--help]

  --prefix DIR   program in DIR/bin, manual and completions in DIR/share
                 (default: /usr/local as root, ~/.local as another user)
  --uninstall    remove what this script installs; config and data stay
  --help         show this text

Run it again with a newer archive to upgrade. Config and data are never overwritten.
As another user than root, XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_DATA_HOME are respected.
EOF
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

say() {
    echo "$*"
}

# Prints a word for a shell.
quoted() {
    printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

# Prints a text for the replacement in `s|...|...|` of sed.
replacement() {
    printf '%s' "$1" | sed 's/[&|\\]/\\&/g'
}

# Copies a file over another one, as a whole.
put() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new"
    chmod 644 "$2.new"
    mv -f "$2.new" "$2"
}

prefix=
uninstall=no
while [ $# -gt 0 ]; do
    case "$1" in
    --prefix)
        [ $# -gt 1 ] || fail "--prefix needs a directory"
        prefix=$2
        shift
        ;;
    --prefix=*) prefix=${1#--prefix=} ;;
    --uninstall) uninstall=yes ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")" && pwd)
if [ -f "$here/integration-bridge" ]; then
    name=integration-bridge config_name=bridge.toml verb=run
elif [ -f "$here/integration-relay" ]; then
    name=integration-relay config_name=relay.toml verb=serve
else
    fail "there is no program next to this script; run it in the directory of the archive"
fi

is_root=no
[ "$(id -u)" != 0 ] || is_root=yes
if [ $is_root = yes ]; then
    prefix=${prefix:-/usr/local}
    config_dir=/etc/$name
    state_dir=/var/lib/$name
    data_home=$prefix/share
else
    [ -n "${HOME:-}" ] || fail "HOME is not set"
    config_dir=${XDG_CONFIG_HOME:-$HOME/.config}/$name
    state_dir=${XDG_STATE_HOME:-$HOME/.local/state}/$name
    if [ -n "$prefix" ]; then
        data_home=$prefix/share
    else
        prefix=$HOME/.local
        data_home=${XDG_DATA_HOME:-$HOME/.local/share}
    fi
fi
for dir in "$prefix" "$config_dir" "$state_dir" "$data_home"; do
    case "$dir" in
    *[\"\\]*) fail "a path with a quotation mark or a backslash is not supported: $dir" ;;
    /*) ;;
    *) fail "a directory must be an absolute path: $dir" ;;
    esac
done
program=$prefix/bin/$name
config=$config_dir/$config_name
unit=/etc/systemd/system/$name.service
user_unit=${XDG_CONFIG_HOME:-${HOME:-}/.config}/systemd/user/$name.service
later=$config_dir/add-service-as-root.txt

if [ -f "/usr/lib/$name/managed-by" ] && [ $is_root = yes ]; then
    fail "$name is installed by $(cat "/usr/lib/$name/managed-by"); use that to upgrade or remove it"
fi

# Whether systemd runs here.
has_systemd() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1
}

# Whether a unit starts this program.
starts_program() {
    [ -f "$1" ] && grep -qF "$program" "$1"
}

# Calls $1 for the manual, the completions and the example of the config: each file of the archive, and where it goes.
extras() {
    if [ -f "$here/doc/$config_name" ]; then
        "$1" "$here/doc/$config_name" "$data_home/doc/$name/$config_name"
    fi
    for page in "$here"/man/*; do
        [ ! -f "$page" ] || "$1" "$page" "$data_home/man/man1/$(basename "$page")"
    done
    for script in "$here"/completions/*; do
        [ -f "$script" ] || continue
        file=$(basename "$script")
        case "$file" in
        *.fish) "$1" "$script" "$data_home/fish/vendor_completions.d/$file" ;;
        *.ps1) "$1" "$script" "$data_home/$name/$file" ;;
        _*) "$1" "$script" "$data_home/zsh/site-functions/$file" ;;
        *) "$1" "$script" "$data_home/bash-completion/completions/$file" ;;
        esac
    done
}

remove_extra() {
    rm -f "$2"
}

if [ $uninstall = yes ]; then
    if [ $is_root = yes ]; then
        if has_systemd && [ -f "$unit" ]; then
            systemctl disable --now "$name" || true
        fi
        rm -f "$unit"
        ! has_systemd || systemctl daemon-reload
    elif [ -f "$user_unit" ] && [ -x "$program" ]; then
        "$program" service uninstall --user || say "the unit $user_unit was not removed"
    fi
    extras remove_extra
    # Directories of this program alone, unless another file is there.
    rmdir "$data_home/doc/$name" "$data_home/$name" 2>/dev/null || true
    rm -f "$program" "$later"
    say "$name was removed. Config and data stay in $config_dir and $state_dir."
    exit 0
fi

is_upgrade=no
[ ! -e "$program" ] || is_upgrade=yes
mkdir -p "$prefix/bin"
cp "$here/$name" "$program.new"
chmod 755 "$program.new"
# Before it takes the place of one that works.
if ! "$program.new" --version >/dev/null; then
    rm -f "$program.new"
    fail "$name does not run on this machine, or not from $prefix/bin"
fi
# A process that runs keeps the old file.
mv -f "$program.new" "$program"
extras put
say "$program installed: $("$program" --version)"

# The account first: the state directory belongs to it.
if [ $is_root = yes ] && ! id -u "$name" >/dev/null 2>&1; then
    nologin=/usr/sbin/nologin
    [ -x $nologin ] || nologin=/sbin/nologin
    if command -v useradd >/dev/null 2>&1; then
        useradd --system --user-group --no-create-home --home-dir "$state_dir" --shell "$nologin" "$name"
    else
        # BusyBox, as in Alpine.
        addgroup -S "$name"
        adduser -S -D -H -h "$state_dir" -s "$nologin" -G "$name" "$name"
    fi
    say "account $name created"
fi
if [ ! -d "$state_dir" ]; then
    mkdir -p "$(dirname "$state_dir")"
    mkdir -m 700 "$state_dir"
    [ $is_root = no ] || chown "$name:$name" "$state_dir"
fi

mkdir -p "$config_dir"
if [ -e "$config" ]; then
    say "$config kept"
else
    # The directories of this installation in place of the package's.
    sed -e "s|/var/lib/$name|$(replacement "$state_dir")|g" \
        -e "s|/etc/$name|$(replacement "$config_dir")|g" \
        -e "s|/usr/share/doc/$name|$(replacement "$data_home/doc/$name")|g" \
        "$here/$config_name" >"$config.new"
    if [ $is_root = no ]; then
        # No other account, and no service of the machine, is involved.
        sed -e "s|runuser -u $name -- ||" -e '/systemctl enable --now/d' "$config.new" >"$config.user"
        mv -f "$config.user" "$config.new"
    fi
    chmod 644 "$config.new"
    mv "$config.new" "$config"
    say "$config created"
fi

if [ $is_root = yes ]; then
    if [ -d /etc/systemd/system ]; then
        # A unit expands % and a letter.
        in_unit="\"$(printf '%s' "$program" | sed 's/%/%%/g')\""
        sed "s|/usr/bin/$name|$(replacement "$in_unit")|g" "$here/$name.service" >"$unit.new"
        chmod 644 "$unit.new"
        mv -f "$unit.new" "$unit"
        say "$unit written"
    fi
    if has_systemd; then
        systemctl daemon-reload
        # Only a service that runs: it drains its requests first.
        systemctl try-restart "$name" || say "$name did not restart; see: systemctl status $name"
    fi
    start="systemctl enable --now $name"
    has_systemd || start="let your service manager run, as the account $name: $program $verb --config $config"
else
    user=$(id -un)
    if [ "$name" = integration-bridge ]; then
        command="$(quoted "$program") service install --account $(quoted "$user") --config $(quoted "$config")"
    else
        command="sh $(quoted "$here/install.sh")"
    fi
    {
        echo "# Run this command as root to add the service of the machine. It runs a file that belongs to $user, so compare"
        echo "# that file with the published checksums first."
        echo "$command"
    } >"$later.new"
    mv -f "$later.new" "$later"
    if has_systemd && starts_program "$user_unit"; then
        systemctl --user try-restart "$name" || say "$name did not restart; see: systemctl --user status $name"
    fi
    if starts_program "$unit"; then
        say "The service of the machine runs the former version until root calls: systemctl restart $name"
    fi
fi

# Prints a command for the account of the service.
as_account() {
    if [ $is_root = no ]; then
        printf '%s' "$1"
    elif command -v runuser >/dev/null 2>&1; then
        printf '%s' "runuser -u $name -- $1"
    else
        printf '%s' "su -s /bin/sh $name -c $(quoted "$1")"
    fi
}

if [ $is_upgrade = yes ] && { [ "$name" != integration-bridge ] || [ -e "$state_dir/identity.json" ]; }; then
    exit 0
fi
say
if [ "$name" = integration-bridge ]; then
    say "Next:"
    say "  1. $(quoted "$program") pair --bundle FILE --config $(quoted "$config")"
    say "     FILE is the pairing file from the relay's operator. Without one, set relay.url and bridge.name in the config, and"
    say "     write --client-id ID in place of --bundle FILE."
    if [ $is_root = yes ]; then
        say "  2. $start"
    else
        say "  2. add the service, either for your own user, without root:"
        say "       $(quoted "$program") service install --user --config $(quoted "$config")"
        say "     or let root add the service of the machine (this command is also in $later):"
        say "       $command"
    fi
else
    say "Next:"
    say "  1. set listen.public and the certificate in $config"
    say "  2. $(as_account "$(quoted "$program") init --config $(quoted "$config")")"
    if [ $is_root = yes ]; then
        say "  3. $start"
    else
        say "  3. $(quoted "$program") serve --config $(quoted "$config")"
        say "     or let root add the service of the machine (this command is also in $later):"
        say "       $command"
    fi
fi
case ":${PATH:-}:" in
*":$prefix/bin:"*) ;;
*) say "$prefix/bin is not in PATH: add it, or use the whole path of the program." ;;
esac
