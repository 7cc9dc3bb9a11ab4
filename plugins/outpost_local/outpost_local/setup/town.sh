# shellcheck shell=sh
# town: a clone of the Gas Town workspace. Arguments: MODE PATH SOURCE [BUNDLE]: a URL, or words
# for people and a file that `receive.sh` brought.
# alive PID: whether that process runs; one that waits for its parent to hear of its end does not.
alive() {
  case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in
    '' | [ZX]*) return 1 ;;
  esac
}

main() {
  mode=$1 source=$3 bundle=${4:-}
  resolve "$2"
  if [ -f "$path/mayor/town.json" ]; then
    [ -z "$bundle" ] || rm -f "$bundle"
    answer ok "$path"
  fi
  if [ -e "$path" ] || [ -L "$path" ]; then
    if [ ! -d "$path" ] || [ -n "$(ls -A "$path" 2>/dev/null)" ]; then
      answer failed "$path is there and is no Gas Town workspace (mayor/town.json is missing)" \
        "move it away, or correct town_path"
    fi
  fi
  [ -n "$source" ] || answer skipped "nothing says where $path comes from" \
    "set town_url, or run this in a town"
  [ "$mode" = apply ] || answer would "clone $source to $path"
  have git || answer skipped "git is missing"
  parent=$(dirname "$path") name=$(basename "$path")
  mkdir -p "$parent" || answer failed "$parent cannot be made" "correct town_path"
  # What an earlier run left when it was killed; one that is at it now keeps its own.
  for old in "$parent/.$name.outpost-"*; do
    if [ -d "$old" ] && ! alive "${old##*-}"; then rm -rf "$old"; fi
  done
  made="$parent/.$name.outpost-$$"
  from=${bundle:-$source}
  GIT_TERMINAL_PROMPT=0 git -c core.hooksPath=/dev/null -c protocol.ext.allow=never \
    clone --quiet -- "$from" "$made" ||
    { rm -rf "$made"; answer failed "$source could not be cloned" \
      "git clone $source there by hand says more; see git push in these steps"; }
  if [ ! -f "$made/mayor/town.json" ]; then
    rm -rf "$made"
    answer failed "$source is no Gas Town workspace (mayor/town.json is missing)" "correct town_url"
  fi
  [ -z "$bundle" ] || git -C "$made" remote remove origin
  rmdir "$path" 2>/dev/null
  if [ -e "$path" ] || ! mv "$made" "$path"; then
    rm -rf "$made"
    answer failed "$path came to be meanwhile" "run this again"
  fi
  [ -z "$bundle" ] || rm -f "$bundle"
  answer "done" "cloned $source to $path"
}
