#!/bin/sh
# Keep a mirror of each repository that a file lists, one URL a line, for the option `rig_cache`.
#   update.sh LIST FOLDER [CREDENTIALS]
# A mirror is FOLDER/HOST/PATH.git. It is whole or not there, whenever this is killed; branches and
# tags are followed, and nothing is ever pruned from its objects, since workers may read it.
# CREDENTIALS is a file of git-credential-store, one https://USER:TOKEN@HOST a line.
set -u
list=$1 folder=$2 credentials=${3:-}
export GIT_TERMINAL_PROMPT=0 GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
status=0

passed_over() { printf '%s: passed over: %s\n' "$1" "$2" >&2; status=1; }

ask() {  # git in the repository $1, with the login alone
  repository=$1; shift
  # it reads the file alone: git would have the helper write there, too
  # shellcheck disable=SC2016 # the helper's own shell looks the file up
  helper='!f() { [ "$1" != get ] || git credential-store --file "$MIRROR_CREDENTIALS" get; }; f'
  MIRROR_CREDENTIALS=$credentials git --git-dir="$repository" -c gc.auto=0 \
    -c credential.helper= ${credentials:+-c "credential.helper=$helper"} \
    -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=60 "$@" </dev/null
}

while IFS= read -r url || [ -n "$url" ]; do
  case $url in
    '' | '#'*) continue ;;
    https://* | http://*) ;;
    *) passed_over "$url" "it begins neither with https:// nor with http://"; continue ;;
  esac
  path=${url#*://}
  host=${path%%/*} path=${path#*/}
  host=${host##*@} path=${path%/}
  path=${host%%:*}/${path%.git}.git
  case /$path/ in
    *[!A-Za-z0-9._/~+-]* | */.* | *//*)
      passed_over "$url" "its path has characters that no mirror has"
      continue
      ;;
  esac
  goal=$folder/$path new=
  if [ ! -d "$goal/objects" ]; then
    new=$goal.new
    rm -rf "$new"
    mkdir -p "$new" && git init --quiet --bare "$new"
  fi
  if ! ask "${new:-$goal}" fetch --quiet --no-write-fetch-head --prune "$url" \
    '+refs/heads/*:refs/heads/*' '+refs/tags/*:refs/tags/*'; then
    passed_over "$url" "it cannot be fetched"
    continue
  fi
  if [ -n "$new" ] && ! mv "$new" "$goal"; then passed_over "$url" "it has no place"; continue; fi
  printf '%s: up to date\n' "$path"
done <"$list"
exit "$status"
