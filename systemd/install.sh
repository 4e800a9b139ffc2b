#!/bin/sh
# Installs iotserver, as root, on Debian 12 or 13, Ubuntu 24.04, or Raspberry Pi OS of 2023 or newer.
# Run it again after each `git pull`: it changes only what is different, and restarts what runs since
# before its files were changed. After an interruption, running it again does the rest.
#
#   install.sh                  on a rented server, behind nginx
#   install.sh --uninstall      removes that; data, settings and certificate stay
#   install.sh --home           at home, alone, on port 80 of all addresses of this computer
#   install.sh --home --remove  removes that; data and settings stay
#
# With --dry-run as well it prints what it would do, and does nothing. With DESTDIR=FOLDER files go
# below that folder, and nothing is started.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
python=/usr/bin/python3
state=/var/lib/iotserver
units="iotserver.service iotserver-prune.service iotserver-prune.timer iotserver-backup.service
    iotserver-backup.timer iotserver-courier.service"
started="iotserver.socket iotserver.service iotserver-prune.timer iotserver-backup.timer"
socket=/etc/systemd/system/iotserver.socket
library=/usr/local/lib/iotserver
limits=$library/limit.nft
rotation=$library/logrotate.conf
enabled=$library/enabled     # the units that were switched on, once
site=/etc/nginx/sites-available/iotserver
shipped=$library/nginx.conf # the site as it was installed, to see whether it was edited
names=/etc/nginx/snippets/iotserver-name.conf
nginx=/etc/nginx/nginx.conf
files=/etc/nginx/modules-enabled/90-iotserver.conf
connections=8192        # of nginx, to clients and to the server, in each of its workers
was='; # iotserver; was'

dry='' home='' action=install
for argument; do
    case $argument,$home in
        --dry-run,*) dry=1 ;;
        --home,*) home=1 ;;
        --uninstall, | --remove,1) action=uninstall ;;
        *) echo "usage: $0 [--uninstall | --home [--remove]] [--dry-run]" >&2; exit 2 ;;
    esac
done
[ -n "$home" ] || {
    units="$units iotserver-log.service iotserver-log.timer iotserver-limit.service"
    started="$started iotserver-log.timer iotserver-limit.service"
}

acted=                  # whether there was anything to do
changed=                # the targets that were not as they should be
failed=                 # the units that did not start

fail() { echo "install.sh: $*" >&2; exit 1; }

# Say what is done, and do it unless this is a rehearsal.
run() {
    acted=1
    echo "${dry:+would: }$*"
    [ -n "$dry" ] || "$@"
}

was_changed() {  # TARGET...
    for target; do
        case " $changed " in *" $target "*) return 0 ;; esac
    done
    return 1
}

folder() {  # MODE FOLDER
    [ -d "$root$2" ] || run install -d -m "$1" "$root$2"
}

# Install a file unless it is there already, in one step: nobody ever sees half of it.
put() {  # MODE SOURCE TARGET
    if cmp -s "$2" "$root$3" && [ "$(stat -c %a "$root$3")" = "$1" ]; then
        return
    fi
    acted=1
    changed="$changed $3"
    echo "${dry:+would: }install $3"
    [ -z "$dry" ] || return 0
    install -D -m "$1" "$2" "$root$3.new"
    mv "$root$3.new" "$root$3"
}

# The same for a text on standard input.
put_text() {  # MODE TARGET
    cat > "$scratch/text"
    put "$1" "$scratch/text" "$2"
}

remove() {  # TARGET...
    for target; do
        if [ -e "$root$target" ] || [ -L "$root$target" ]; then
            run rm -f "$root$target"
        fi
    done
}

# Whether systemd runs here, and is meant: not below a DESTDIR.
is_live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

live() {
    if is_live; then
        run "$@"
    fi
}

# Whether one of these files was changed after a time, which is written as `touch -d` takes it; or
# would be, in a rehearsal.
is_newer() {  # TIME TARGET...
    touch -d "$1" "$scratch/time"
    shift
    if [ -n "$dry" ] && was_changed "$@"; then
        return
    fi
    [ -n "$(find "$@" -newer "$scratch/time" 2> /dev/null)" ]
}

# Whether a unit runs since before one of these files was changed.
is_stale() {  # UNIT TARGET...
    unit=$1
    shift
    is_live && systemctl is-active --quiet "$unit" && is_newer "$(systemctl show --value \
        --timestamp=us+utc --property=InactiveExitTimestamp "$unit")" "$@"
}

check_system() {
    [ -z "$root" ] || return 0
    [ -n "$dry" ] || [ "$(id -u)" = 0 ] || fail "this needs root"
    "$python" -c 'import sys, sqlite3
sys.exit(sys.version_info < (3, 11) or sqlite3.sqlite_version_info < (3, 37))' ||
        fail "$python is missing or older than 3.11. Use Debian 12, Ubuntu 24.04, Raspberry Pi OS" \
            "of 2023, or newer"
    for program in setpriv systemd-sysusers; do
        command -v "$program" > /dev/null || fail "$program is missing: apt-get install $program"
    done
    [ -n "$home" ] || check_for_nginx
    [ -z "$home" ] || check_port
}

check_for_nginx() {
    for program in nginx openssl logrotate; do
        command -v "$program" > /dev/null || fail "$program is missing: apt-get install $program"
    done
    command -v nft > /dev/null || fail 'nft is missing: apt-get install nftables'
}

check_port() {
    for known in "$socket" "$socket.d"; do      # it runs already; or it has a port of your choice
        [ ! -e "$known" ] || return 0
    done
    ! "$python" -Ic 'import socket; socket.create_connection(("127.0.0.1", 80), 2)' 2> /dev/null ||
        fail 'another program uses port 80. This shows which one: ss -ltnp "sport = :80"'
}

# Of the two ways to install it a machine has one: both want port 80. Data and settings are the same.
refuse_other_way() {
    [ -e "$root$socket" ] || return 0
    if grep -qx 'ListenStream=80' "$root$socket"; then
        [ -n "$home" ] ||
            fail "iotserver is installed for a home here. To remove that: $0 --home --remove"
    else
        [ -z "$home" ] ||
            fail "iotserver is installed behind nginx here. To remove that: $0 --uninstall"
    fi
}

install_program() {
    put 644 "$here/__main__.py" $library/__main__.py
    put 644 "$here/../iotserver.py" $library/iotserver.py
    # This also compiles after an upgrade of Python alone. It skips what is compiled already.
    [ -n "$dry" ] || "$python" -Im compileall -q ${root:+-s "$root"} "$root$library"
    put 755 "$here/restore.sh" /usr/local/bin/iotserver-restore
    put_text 755 /usr/local/bin/iotserver << END
#!/bin/sh
# The commands of iotserver on the service's database, as the service's user. Files that you name
# are looked for in $state; - is standard input or output.
export IOTSERVER_DB=$state/iot.db IOTSERVER_PORT=80 IOTSERVER_PROGRAM=iotserver
case \$(id -un) in
    root) as='setpriv --reuid=iotserver --regid=iotserver --init-groups --' ;;
    iotserver) as= ;;
    *) exec sudo "\$0" "\$@" ;;
esac
cd $state && exec \$as $python -I $library "\$@"
END
    [ -e "$root/etc/iotserver.conf" ] || put_text 644 /etc/iotserver.conf << 'END'
# Settings of iotserver. After a change: systemctl restart iotserver
# Each setting of `iotserver --help` can stand here, in capitals after IOTSERVER_.

# C or F on the page; without it, the page follows the browser's language.
#IOTSERVER_UNITS=F

# en, de, fr, es or it; without it, the page follows the browser, and messages are in English.
#IOTSERVER_LANGUAGE=de

# The warmest comfortable temperature inside.
#IOTSERVER_COMFORT=72F

# The address of this server as people type it: for links in messages, and for what --add-station
# prints.
#IOTSERVER_LINK=https://weather.example.org/

# Updates per minute that a station may send.
#IOTSERVER_RATE_LIMIT=60

# Ask for a password before the page is shown. First: iotserver --set-password password
#IOTSERVER_PRIVATE=/var/lib/iotserver/password

# Readings older than this are deleted each night; hourly summaries stay for ever. Without this line,
# nothing is deleted.
#IOTSERVER_PRUNE_AGE=90d
END
    [ -e "$root/etc/iotserver-courier.conf" ] || put_text 600 /etc/iotserver-courier.conf << 'END'
# Settings of iotserver's courier, which sends messages. Addresses are secrets, so only root can
# read this file. After a change: systemctl restart iotserver-courier

# Where messages go: one address, or several separated by blanks.
#IOTSERVER_NOTIFY="ntfys://ntfy.sh/a-long-name-that-nobody-guesses?alive=45m"

# No messages in these hours.
#IOTSERVER_QUIET="22:30-07:00 Europe/Berlin"

# The language of the test and of the message of alive=; all others have that of the server.
#IOTSERVER_LANGUAGE=de

END
}

install_user() {
    put 644 "$here/sysusers.conf" /etc/sysusers.d/iotserver.conf
    if [ -z "$root" ] && ! getent passwd iotserver-courier > /dev/null; then
        run systemd-sysusers /etc/sysusers.d/iotserver.conf
    fi
    folder 710 "$state"
    [ -n "$root" ] || [ "$(stat -c %U "$state" 2> /dev/null)" = iotserver ] ||
        run chown iotserver:iotserver "$state"
}

# Version 2.0 pruned by itself and kept no list of what it had switched on: of that, what is off now
# was switched off by you.
note_older() {
    prune=/etc/systemd/system/iotserver-prune
    if grep -qsx 'Environment=IOTSERVER_PRUNE_AGE=90d' "$root$prune.service" &&
            ! grep -qs '^IOTSERVER_PRUNE_AGE=' "$root/etc/iotserver.conf"; then
        echo "from now on nothing is pruned. To delete readings older than 90 days each night, as" \
            "until now, add this line to /etc/iotserver.conf: IOTSERVER_PRUNE_AGE=90d"
    fi
    if is_live && [ ! -e "$enabled" ]; then
        for unit in $started; do
            ! systemctl is-enabled --quiet "$unit" 2> /dev/null || was_on=1
            [ ! -e "/etc/systemd/system/$unit" ] || echo "$unit"
        done > "$scratch/enabled"
        [ -n "${was_on:-}" ] || : > "$scratch/enabled"
        [ -n "$dry" ] || install -D -m 644 "$scratch/enabled" "$enabled"
        [ -z "$dry" ] || enabled=$scratch/enabled
    fi
}

install_units() {
    for unit in $units; do
        put 644 "$here/$unit" "/etc/systemd/system/$unit"
    done
    if [ -n "$home" ]; then
        put 644 "$here/home.socket" "$socket"
    else
        put 644 "$here/iotserver.socket" "$socket"
        put 644 "$here/limit.nft" "$limits"
        put 644 "$here/logrotate.conf" "$rotation"
    fi
}

# nginx does not start without a certificate, and certbot needs nginx: so there is one until then.
install_certificate() {
    [ ! -L "$root/etc/ssl/iotserver" ] || return 0
    folder 755 /etc/ssl
    folder 700 /etc/ssl/iotserver-placeholder
    run openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=iotserver \
        -keyout "$root/etc/ssl/iotserver-placeholder/privkey.pem" \
        -out "$root/etc/ssl/iotserver-placeholder/fullchain.pem" 2> "$scratch/openssl" ||
        fail "openssl: $(cat "$scratch/openssl")"
    run ln -s iotserver-placeholder "$root/etc/ssl/iotserver"
}

# Debian's nginx has room for 768 connections: as many unfinished requests shut it out. The number
# is in a file of the package and can stand nowhere else; an upgrade of nginx keeps what was edited.
edit_nginx() {  # SED-SCRIPT
    [ -e "$root$nginx" ] || return 0
    sed -E "$1" "$root$nginx" > "$scratch/nginx"
    put "$(stat -c %a "$root$nginx")" "$scratch/nginx" "$nginx"
}

raise_connections() {
    # (a smaller number only: of yours that is larger nothing is changed)
    edit_nginx "s/(worker_connections +)([0-9]{1,3}|[1-7][0-9]{3});/\1$connections$was \2/"
    if ! grep -qs '^ *worker_rlimit_nofile' "$root$nginx"; then
        put_text 644 "$files" << END
# From iotserver's install.sh: files for as many connections as nginx.conf has, and some more.
worker_rlimit_nofile $((connections + 512));
END
    fi
}

# Whether the site is one that was shipped: as it was installed, or one of the versions until 2.0.
is_shipped() {
    [ ! -e "$root$site" ] || cmp -s "$root$shipped" "$root$site" ||
        case $(cksum < "$root$site") in
            '915725825 9933' | '2439558506 9933' | '2513204857 7150') ;;
            *) return 1 ;;
        esac
}

install_site() {
    folder 755 /var/www/iotserver
    [ -e "$root$names" ] || put_text 644 $names << 'END'
# The name of this server. If nginx has other sites, too, it has to stand here. Afterwards:
# nginx -t && systemctl reload nginx
server_name _;
END
    if is_shipped; then
        put 644 "$here/nginx.conf" "$site"
    elif ! cmp -s "$here/nginx.conf" "$root$site"; then
        echo "$site was edited, so it stays as it is. The one of this version differs in:"
        diff -U0 "$root$site" "$here/nginx.conf" | sed 1,2d
    fi
    put 644 "$here/nginx.conf" "$shipped"
    folder 755 /etc/nginx/sites-enabled
    if [ ! -e "$root/etc/nginx/sites-enabled/iotserver" ]; then
        remove_default
        run ln -sf ../sites-available/iotserver "$root/etc/nginx/sites-enabled/iotserver"
    fi
}

# Debian's own site would take all requests. One that you have edited stays.
remove_default() {
    default=/etc/nginx/sites-enabled/default
    if [ -L "$root$default" ]; then
        sum=$(md5sum < "$root$default" | cut -c 1-32)
        ! dpkg-query -W -f '${Conffiles}\n' 'nginx*' | grep -q "/sites-available/default $sum" ||
            run rm "$root$default"
    fi
}

# Beside other sites ours is found by its name alone.
check_name() {
    other=$(grep -lsE '^[^#]*\<listen[[:space:]]' "$root"/etc/nginx/sites-enabled/* \
        "$root"/etc/nginx/conf.d/*.conf | grep -v /iotserver | head -n 1) || :
    if [ -n "$other" ] && [ -z "$dry" ] && grep -qx 'server_name _;' "$root$names"; then
        echo "nginx has other sites, like $other: write the name of this server into $names," \
            "or they may get what is sent to it"
    fi
}

# Switch on what never was, and restart what runs since before its files were changed. What you
# switched off stays off.
start() {
    # shellcheck disable=SC2086
    if is_live && { systemctl show --value --property=NeedDaemonReload iotserver.socket $units |
            grep -q yes; }; then
        live systemctl daemon-reload
    fi
    for unit in $started; do
        grep -qsx "$unit" "$enabled" || switch_on "$unit"
    done
    program="$library/iotserver.py $library/__main__.py"
    # shellcheck disable=SC2086
    if is_stale iotserver.socket "$socket"; then
        live systemctl restart iotserver.socket iotserver.service
    elif is_stale iotserver.service /etc/systemd/system/iotserver.service $program; then
        live systemctl restart iotserver.service
    fi
    # shellcheck disable=SC2086
    if is_stale iotserver-courier.service /etc/systemd/system/iotserver-courier.service $program
    then
        live systemctl restart iotserver-courier.service
    fi
    [ -n "$home" ] || start_for_nginx
    for unit in $failed; do
        echo "install.sh: $unit does not start. This says why: journalctl -u $unit" >&2
    done
    [ -z "$failed" ] || exit 1
}

switch_on() {  # UNIT
    if ! live systemctl enable --now "$1"; then
        failed="$failed $1"
    elif is_live && [ -z "$dry" ]; then
        echo "$1" >> "$enabled"
    fi
}

start_for_nginx() {
    if is_stale iotserver-limit.service /etc/systemd/system/iotserver-limit.service "$limits"; then
        live systemctl restart iotserver-limit.service
    fi
    [ -z "$root" ] || return 0
    since=$(nginx_since)
    if [ -n "$since" ]; then
        is_newer "$since" "$site" "$names" "$nginx" "$files" || return 0
    else
        is_live && systemctl is-enabled --quiet nginx.service 2> /dev/null || return 0
    fi
    run nginx -t -q ||
        fail 'nginx goes on with its old settings; mend that, then: systemctl reload nginx'
    live systemctl reload-or-restart nginx.service
}

# When nginx read its settings: the start of its newest process. Nothing if it does not run.
nginx_since() {
    "$python" -Ic 'import os, time
main = open("/run/nginx.pid").read().strip()
workers = open(f"/proc/{main}/task/{main}/children").read().split()
ticks = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[19] for pid in workers]
age = time.clock_gettime(time.CLOCK_BOOTTIME) - max(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
print(f"@{time.time() - age:.6f}")' 2> /dev/null || :
}

uninstall() {
    if [ -e "$root/etc/systemd/system/iotserver.service" ]; then
        for unit in $started iotserver-courier.service; do
            [ ! -e "$root/etc/systemd/system/$unit" ] || live systemctl disable --now "$unit"
        done
    fi
    remove "$socket"
    for unit in $units; do
        remove "/etc/systemd/system/$unit"
    done
    remove /etc/sysusers.d/iotserver.conf /usr/local/bin/iotserver \
        /usr/local/bin/iotserver-restore $library/iotserver.py $library/__main__.py "$enabled"
    [ ! -d "$root$library/__pycache__" ] || run rm -r "$root$library/__pycache__"
    [ -n "$home" ] || uninstall_site
    [ ! -d "$root$library" ] || run rmdir "$root$library"
    live systemctl daemon-reload
    [ -n "$home" ] || live systemctl try-reload-or-restart nginx.service
    certificate=/etc/ssl/iotserver
    [ -L "$root$certificate" ] || certificate=
    echo "left as they are: $state, /etc/iotserver.conf, /etc/iotserver-courier.conf," \
        "${certificate:+$certificate, }the users iotserver and iotserver-courier"
}

uninstall_site() {
    remove /etc/nginx/sites-enabled/iotserver
    ! is_shipped || remove "$site"
    remove "$site.before" "$shipped" "$files" "$limits" "$rotation"
    edit_nginx "s/[0-9]+$was ([0-9]+)/\1;/"
}

# What one needs next, at home.
say_addresses() {
    address=$("$python" -IBc 'import sys; sys.path.append("'$library'")
import iotserver; print(iotserver.lan_address())')
    name=
    [ ! -e /usr/sbin/avahi-daemon ] || name=" or http://$(uname -n).local/"
    cat << END

iotserver runs, and starts with this computer. On a phone or computer in your home, open:
    http://$address/$name
Register a station:
    sudo iotserver --add-station outside --role outside --mac outside
The address of the server, for the config.py of each station:
    SERVER = "http://$address"
END
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
refuse_other_way
if [ "$action" = uninstall ]; then
    uninstall
    exit
fi
check_system
note_older
install_program
install_user
install_units
[ -n "$home" ] || {
    install_certificate
    raise_connections
    install_site
    check_name
}
start
[ -n "$acted" ] || echo "nothing to do"
[ -z "$home" ] || [ -n "$dry$root" ] || [ -e "$socket.d" ] || say_addresses
