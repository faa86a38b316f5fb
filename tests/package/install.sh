#!/bin/sh
# The package installed, upgraded, removed and purged where there is no task: what it brings, what it keeps, and that
# it starts nothing. Run it by tests/package/in_overlay, with the package as its argument.
set -eu
# shellcheck source=tests/package/assert.sh
. "$(dirname "$0")/assert.sh"
package=$1
booted

step 'what belongs to nobody before'
find /etc /usr /var/lib /var/log -xdev 2>/dev/null | grep -v '^/var/lib/dpkg/\|^/var/log/dpkg' | sort >/tmp/before

step 'install'
install_package "$package"
expect 0 df2redis --version
for file in /usr/share/man/man8/df2redis.8.gz /usr/share/man/man5/df2redis.toml.5.gz \
	/usr/share/bash-completion/completions/df2redis /usr/share/zsh/vendor-completions/_df2redis \
	/usr/share/fish/vendor_completions.d/df2redis.fish /usr/share/doc/df2redis/copyright \
	/usr/share/doc/df2redis/examples/full.toml /usr/lib/systemd/system/df2redis.service \
	/usr/lib/systemd/system/df2redis@.service /etc/logrotate.d/df2redis; do
	[ -s "$file" ] || fail "$file is missing"
done
mode_is '755 root:root' /etc/init.d/df2redis
mode_is '750 root:df2redis' /etc/df2redis
mode_is '750 df2redis:df2redis' /var/log/df2redis
mode_is '700 df2redis:df2redis' /var/lib/df2redis
mode_is '755 df2redis:df2redis' /run/df2redis
is /usr/sbin/nologin "$(getent passwd df2redis | cut -d: -f7)" 'the shell of df2redis'
[ -e /etc/rc2.d/S01df2redis ] || fail 'not started at boot'
is "/etc/default/df2redis
/etc/init.d/df2redis
/etc/logrotate.d/df2redis" "$(dpkg-query -W -f '${Conffiles}' df2redis | awk 'NF { print $1 }' | sort)" conffiles
is '' "$(processes)" 'processes without a task'

step 'the init script where there is no task'
expect 3 /etc/init.d/df2redis status
expect 6 /etc/init.d/df2redis start
expect 0 /etc/init.d/df2redis stop
expect 0 /etc/init.d/df2redis force-reload
expect 7 /etc/init.d/df2redis reload
expect 2 /etc/init.d/df2redis dance
is '' "$(processes)" 'processes without a task'

step 'the units'
expect 0 systemd-analyze verify --man=no /usr/lib/systemd/system/df2redis.service \
	/usr/lib/systemd/system/df2redis@orders.service
expect 0 systemd-analyze security --no-pager --offline=true --threshold=15 \
	/usr/lib/systemd/system/df2redis.service /usr/lib/systemd/system/df2redis@.service >/tmp/security
grep -F Overall /tmp/security

step 'the logrotate files'
for file in /etc/logrotate.d/df2redis /usr/share/doc/df2redis/examples/logrotate/*; do
	echo line >/var/log/df2redis/orders_replicate.log
	chown df2redis:df2redis /var/log/df2redis/orders_replicate.log
	expect 0 logrotate --force --state /tmp/rotated "$file"
	[ -s /var/log/df2redis/orders_replicate.log.1 ] || [ -s /var/log/df2redis/orders_replicate.log.1.gz ] ||
		fail "$file rotated nothing"
	rm -f /var/log/df2redis/*
done

step 'an upgrade keeps what the administrator changed'
echo 'DAEMON_ARGS="--log-level debug"' >/etc/default/df2redis
echo '# mine' >>/etc/init.d/df2redis
chmod 0755 /etc/df2redis
newer "$package" /tmp/newer.deb
install_package /tmp/newer.deb
is '99.0-1' "$(dpkg-query -W -f '${Version}' df2redis)" version
is 'DAEMON_ARGS="--log-level debug"' "$(cat /etc/default/df2redis)" /etc/default/df2redis
has 'Of the later version.' /etc/default/df2redis.dpkg-dist
has '# mine' /etc/init.d/df2redis
mode_is '755 root:df2redis' /etc/df2redis
is '' "$(processes)" 'processes without a task'

step 'removed: configuration, logs and state stay'
touch /etc/df2redis/orders.toml /var/log/df2redis/orders_replicate.log /var/lib/df2redis/orders.lock
dpkg -r df2redis
gone /usr/bin/df2redis /usr/lib/systemd/system/df2redis.service /run/df2redis
for file in /etc/default/df2redis /etc/init.d/df2redis /etc/df2redis/orders.toml \
	/var/log/df2redis/orders_replicate.log /var/lib/df2redis/orders.lock; do
	[ -e "$file" ] || fail "$file is gone"
done
expect 0 /etc/init.d/df2redis start
expect 4 /etc/init.d/df2redis status

step 'purged: nothing stays'
dpkg --purge df2redis
gone /etc/df2redis /var/log/df2redis /var/lib/df2redis /etc/default/df2redis.dpkg-dist
expect 2 getent passwd df2redis
expect 2 getent group df2redis
find /etc /usr /var/lib /var/log -xdev 2>/dev/null | grep -v '^/var/lib/dpkg/\|^/var/log/dpkg' | sort >/tmp/after
# Backups that adduser and dpkg keep of their own files are no part of the package.
left=$(comm -13 /tmp/before /tmp/after | grep -v '^/etc/\(passwd\|group\|shadow\|gshadow\|subuid\|subgid\)-$' || true)
is '' "$left" 'what stays after purge'
is '' "$(find /etc /usr /var /run -xdev -name '*df2redis*' -not -path "$(pwd)/*")" 'files of this name'
echo 'all done'
