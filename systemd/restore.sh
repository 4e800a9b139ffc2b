#!/bin/sh
# Puts a backup in the place of iotserver's database; the one that was there is kept as before.db.
#
#   iotserver-restore         the newest of the nightly backups
#   iotserver-restore NAME    another of them: iot-3.db
#   iotserver-restore -       one that comes on standard input: iotserver-restore - < /root/iot-3.db
#
# The folder is the service's. Whoever took over the service could leave links there that point
# anywhere, so root touches nothing in it: what is read and written there is by the service's user.
#
# shellcheck disable=SC2016  # the $1 of what as_service is given is for the shell in there
set -eu

fail() { echo "iotserver-restore: $*" >&2; exit 1; }

as_service() {  # SCRIPT [NAME]
    setpriv --reuid=iotserver --regid=iotserver --init-groups -- sh -euc "umask 077
        cd /var/lib/iotserver; $1" sh "${2:-}"
}

[ "$(id -u)" = 0 ] || fail 'this needs root: sudo iotserver-restore'
backup=${1:-$(as_service 'cd backup; ls -t -- *.db | head -n 1')}
case $backup in
    -) as_service 'rm -rf restored.db; cat > restored.db' ;;
    '' | -* | */*) fail 'usage: iotserver-restore [NAME | -], a name in /var/lib/iotserver/backup' ;;
    *) echo "restoring $backup"
       as_service 'rm -rf restored.db; cp "backup/$1" restored.db' "$backup" ;;
esac
iotserver --db restored.db --check || fail 'this backup is damaged or incomplete; nothing was changed'

systemctl stop iotserver.socket iotserver.service
failed=
as_service 'rm -rf before.db before.db-wal before.db-shm
    for end in "" -wal -shm; do
        [ ! -e "iot.db$end" ] || mv -T "iot.db$end" "before.db$end"
    done
    mv -T restored.db iot.db' || failed=1
systemctl start iotserver.socket iotserver.service
[ -z "$failed" ] || fail 'not restored; what was there is iot.db or before.db in /var/lib/iotserver'
