# copy_libraries FOLDER FILE...: the libraries of the system that these programs and libraries are
# linked with, into the folder. Sourced.
copy_libraries() {
    folder=$1
    shift
    for file in "$@"; do
        ldd "$file" 2>/dev/null | sed -n 's/.* => \(\/[^ ]*\) (0x.*/\1/p'
    done | sort -u | while read -r library; do
        case $library in
        "$root"/*) ;; # has come with it
        *) [ -e "$folder/${library##*/}" ] || cp -L "$library" "$folder/" ;;
        esac
    done
}
