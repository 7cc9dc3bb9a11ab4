# shellcheck shell=sh
# What the scripts of all steps share. Each is sent as one text: this file, the step's file, and a
# last line that runs `main` with nothing on standard input, so that no program eats the script.
#
# A script answers in lines that begin with `@outpost:`; everything else is noise, quoted when the
# step failed. `look` as first argument changes nothing, `apply` does the work.
set -u
LC_ALL=C
export LC_ALL
# Programs that people install for themselves; not on the PATH of every login.
case ":$PATH:" in
  *":$HOME/.local/bin:"*) ;;
  *) PATH="$PATH:$HOME/.local/bin" ;;
esac

have() { command -v "$1" >/dev/null 2>&1; }

# answer STATE DETAIL [MEND]: ends the script.
answer() {
  printf '@outpost:state %s\n@outpost:detail %s\n' "$1" "$2"
  [ -z "${3:-}" ] || printf '@outpost:hint %s\n' "$3"
  exit 0
}

# fact NAME VALUE: something that the caller wants to know.
fact() { printf '@outpost:fact %s %s\n' "$1" "$2"; }

# at_least WANTED VERSION: whether a version such as 3.3a is at least a wanted major.minor.
at_least() {
  at_least_found=$(printf '%s\n' "$2" | sed -n 's/[^0-9]*\([0-9][0-9]*\)\.\([0-9][0-9]*\).*/\1 \2/p')
  [ -n "$at_least_found" ] || return 1
  at_least_major=${at_least_found% *}
  at_least_minor=${at_least_found#* }
  [ "$at_least_major" -gt "${1%.*}" ] ||
    { [ "$at_least_major" -eq "${1%.*}" ] && [ "$at_least_minor" -ge "${1#*.}" ]; }
}

# Sets `as_root` to the words that run a command as root; where that cannot be done, fails and sets
# `no_root` to why.
find_root() {
  as_root=
  [ "$(id -u)" -ne 0 ] || return 0
  as_root="sudo -n" no_root="there is no sudo here"
  have sudo || return 1
  no_root="sudo asks for a password here"
  sudo -n true 2>/dev/null
}

# Prints what a person types before a command that root must run.
by_root() {
  if [ "$(id -u)" -eq 0 ]; then return 0; fi
  if have sudo; then echo "sudo "; else echo "as root: "; fi
}

# Sets `path` to a folder as the configuration names it; what is not absolute is below HOME.
resolve() {
  # shellcheck disable=SC2034,SC2088 # a step's script uses it; the tilde was typed into a file, and no shell has seen it
  case $1 in
    '~') path=$HOME ;;
    '~/'*) path=$HOME/${1#'~/'} ;;
    /*) path=$1 ;;
    *) path=$HOME/$1 ;;
  esac
}

find_manager() {
  for manager in apt-get dnf apk pacman zypper; do
    if have "$manager"; then return 0; fi
  done
  manager=
  return 1
}

# Prints the command that installs packages, without sudo.
install_command() {
  case $manager in
    apt-get) echo "apt-get install -y" ;;
    dnf) echo "dnf install -y" ;;
    apk) echo "apk add" ;;
    pacman) echo "pacman -S --noconfirm --needed" ;;
    zypper) echo "zypper --non-interactive install" ;;
  esac
}

# Prints what a person types to install packages.
by_hand() { echo "$(by_root)$(install_command) $*"; }

# may_install MODE PACKAGE…: continues where it may be done; answers `would` or `skipped` elsewhere.
may_install() {
  may_install_mode=$1
  shift
  find_manager || answer skipped "not installed, and no package manager that is known here" \
    "install $* in this system's way"
  find_root || answer skipped "not installed, and $no_root" "$(by_hand "$@")"
  [ "$may_install_mode" = apply ] ||
    answer would "install $* with $manager${as_root:+ as root}"
}

# install PACKAGE…: after may_install. What a killed run left behind is finished first.
install() {
  # shellcheck disable=SC2046,SC2086 # words on purpose
  case $manager in
    apt-get)
      apt_get "$@" && return 0
      if [ -n "$apt_mended" ]; then return 1; fi
      apt_mended=yes
      if have dpkg; then $as_root dpkg --configure -a; fi
      apt_get --fix-broken
      apt_update
      apt_get "$@"
      ;;
    pacman) $as_root $(install_command) "$@" || $as_root pacman -Sy --noconfirm --needed "$@" ;;
    apk) $as_root apk add "$@" || { $as_root apk update && $as_root apk add "$@"; } ;;
    *) $as_root $(install_command) "$@" ;;
  esac
}

# Whether this script has put apt right already: once is enough for all packages that it tries.
apt_mended=
# What apt said when it could not fetch its lists of packages; "" when it could.
unfetched=

# Fetches apt's lists. Somebody else who does (a new machine, by itself) is waited for, at most two
# minutes: `DPkg::Lock::Timeout` is not about the lock of the lists.
apt_update() {
  for apt_update_try in 1 2 3 4 5 6 7 8 9 10 11 12 13; do
    [ "$apt_update_try" -eq 1 ] || sleep 10
    # shellcheck disable=SC2086 # words on purpose
    apt_update_said=$($as_root apt-get update -q 2>&1)
    unfetched=$(printf '%s\n' "$apt_update_said" |
      sed -n -e '/^[EW]: Could not get lock/p' -e '/^[EW]: Failed to fetch/p' | head -n 1)
    case $unfetched in
      *": Could not get lock"*) ;;
      *) break ;;
    esac
  done
  printf '%s\n' "$apt_update_said" >&2
}

# could_not_install PROGRAM [PACKAGE]: ends the script.
could_not_install() {
  if [ -n "$unfetched" ]; then
    printf '%s\n' "$unfetched" >&2
    answer failed "$1 could not be installed, since the lists of packages could not be fetched" \
      "$(by_root)apt-get update there; then run this again"
  fi
  answer failed "$1 could not be installed" "$(by_hand "${2:-$1}")"
}

apt_get() {
  # shellcheck disable=SC2086 # words on purpose
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "$@"
}
