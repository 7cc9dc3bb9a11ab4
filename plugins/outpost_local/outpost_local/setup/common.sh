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
  [ -z "${3:-}" ] || printf '@outpost:mend %s\n' "$3"
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

# Sets `as_root` to the words that run a command as root; fails where that needs a password.
find_root() {
  as_root=
  [ "$(id -u)" -ne 0 ] || return 0
  as_root="sudo -n"
  have sudo && sudo -n true 2>/dev/null
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
by_hand() {
  by_hand_sudo="sudo "
  [ "$(id -u)" -ne 0 ] || by_hand_sudo=
  echo "$by_hand_sudo$(install_command) $*"
}

# may_install MODE PACKAGE…: goes on where it may be done; answers `would` or `skipped` elsewhere.
may_install() {
  may_install_mode=$1
  shift
  find_manager || answer skipped "not installed, and no package manager that is known here" \
    "install $* in this system's way"
  find_root || answer skipped "not installed, and sudo asks for a password here" "$(by_hand "$@")"
  [ "$may_install_mode" = apply ] ||
    answer would "install $* with $manager${as_root:+ as root}"
}

# install PACKAGE…: after may_install. What a killed run left behind is finished first.
install() {
  # shellcheck disable=SC2046,SC2086 # words on purpose
  case $manager in
    apt-get)
      apt_get "$@" && return 0
      if have dpkg; then $as_root dpkg --configure -a; fi
      $as_root apt-get update -q || true
      apt_get "$@"
      ;;
    pacman) $as_root $(install_command) "$@" || $as_root pacman -Sy --noconfirm --needed "$@" ;;
    apk) $as_root apk add "$@" || { $as_root apk update && $as_root apk add "$@"; } ;;
    *) $as_root $(install_command) "$@" ;;
  esac
}

apt_get() {
  # shellcheck disable=SC2086 # words on purpose
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "$@"
}
