# shellcheck shell=sh
# What the scenarios of this directory say and check with. Each check that fails ends the scenario with what was found.

# Says what comes next.
step() { echo "--- $*"; }

# Ends the scenario.
fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# expect CODE COMMAND...: the command ends with this exit code.
expect() {
	wanted=$1
	shift
	code=0
	"$@" || code=$?
	[ "$code" = "$wanted" ] || fail "exit code $code instead of $wanted: $*"
}

# is WANTED FOUND WHAT: both texts are the same.
is() { [ "$1" = "$2" ] || fail "$3: found \"$2\", expected \"$1\""; }

# mode_is "MODE USER:GROUP" PATH
mode_is() { is "$1" "$(stat -c '%a %U:%G' "$2")" "$2"; }

# gone PATH...: nothing is there.
gone() {
	for path in "$@"; do
		if [ -e "$path" ] || [ -L "$path" ]; then fail "$path is there"; fi
	done
}

# has TEXT FILE
has() { grep -qF -e "$1" "$2" || fail "no \"$1\" in $2: $(tail -n 20 "$2")"; }

# eventually WHAT COMMAND...: the command succeeds within ten seconds.
eventually() {
	what=$1
	shift
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ "$tries" -lt 200 ] || fail "not within ten seconds: $what"
		sleep 0.05
	done
}

# The processes that run df2redis, whoever started them.
processes() {
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe" 2>/dev/null) in
		/usr/bin/df2redis*) basename "${exe%/exe}" ;;
		esac
	done
}

# newer OLD.deb NEW.deb: the same package as a later version, whose /etc/default/df2redis has one more line.
newer() {
	dpkg-deb -R "$1" /tmp/newer
	sed -i 's/^Version: .*/Version: 99.0-1/' /tmp/newer/DEBIAN/control
	echo '# Of the later version.' >>/tmp/newer/etc/default/df2redis
	dpkg-deb -b --root-owner-group -Zgzip -z1 /tmp/newer "$2" >/dev/null
	rm -rf /tmp/newer
}

# The copy as a machine that has been booted by SysV init into runlevel 2, where packages may start their services.
booted() {
	rm -f /usr/sbin/policy-rc.d /sbin/runlevel
	printf '#!/bin/sh\necho N 2\n' >/sbin/runlevel
	chmod +x /sbin/runlevel
	# No index of manual pages each time: it takes longer than all the rest.
	rm -f /var/lib/man-db/auto-update
}

# Installs or upgrades, and keeps conffiles that somebody has changed.
install_package() { DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$1"; }
