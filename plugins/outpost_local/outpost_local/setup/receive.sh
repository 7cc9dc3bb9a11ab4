# shellcheck shell=sh
# One piece of a file, in base64 as the text of $4. Arguments: FILE OFFSET LAST TEXT. A piece that
# does not begin where the file ends means that somebody else writes it too.
main() {
  umask 077
  file=$HOME/$1
  mkdir -p "$(dirname "$file")" || answer failed "$(dirname "$file") cannot be made"
  [ "$2" -ne 0 ] || : >"$file.part" || answer failed "$file cannot be written"
  [ "$(wc -c <"$file.part")" -eq "$2" ] || answer failed "$file is written by somebody else too"
  printf '%s' "$4" | base64 -d >>"$file.part" || answer failed "$file cannot be written"
  [ "$3" != last ] || mv "$file.part" "$file"
  fact file "$file"
  answer "done" "$file"
}
