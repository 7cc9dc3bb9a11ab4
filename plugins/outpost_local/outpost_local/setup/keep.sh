# shellcheck shell=sh
# One file of the town's config that git does not carry, where it is missing there.
# Arguments: MODE TOWN FILE TEXT (base64).
main() {
  umask 077
  resolve "$2"
  file=$path/$3
  if [ -e "$file" ] || [ -L "$file" ]; then answer ok "$3"; fi
  [ "$1" = apply ] || answer would "copy $3"
  mkdir -p "$(dirname "$file")" || answer failed "$(dirname "$file") cannot be made"
  new="$file.outpost-$$"
  if printf '%s' "$4" | base64 -d >"$new" && mv "$new" "$file"; then answer "done" "$3"; fi
  rm -f "$new"
  answer failed "$file cannot be written"
}
