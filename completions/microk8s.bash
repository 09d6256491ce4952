# Completions of microk8s for bash; `microk8s completions bash` prints this file.

_microk8s() {
    local line value width=0
    local -a lines=() values=()
    COMPREPLY=()
    mapfile -t lines < <(command microk8s __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case ${lines[0]-} in
    :files | :directories)
        local kind=-f
        [[ ${lines[0]} == :files ]] || kind=-d
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen "$kind" -- "${2#=}")
        return
        ;;
    esac
    for line in "${lines[@]}"; do
        value=${line%%$'\t'*}
        values+=("$value")
        ((${#value} > width)) && width=${#value}
    done
    # Only a list of several has room for descriptions: one alone is typed as it stands.
    if ((${#lines[@]} > 1)) && [[ ${COMP_TYPE-} == 63 || ${COMP_TYPE-} == 33 ]]; then
        for line in "${lines[@]}"; do
            printf -v value '%-*s  (%s)' "$width" "${line%%$'\t'*}" "${line#*$'\t'}"
            COMPREPLY+=("${value:0:${COLUMNS:-80}-1}")
        done
    else
        COMPREPLY=("${values[@]}")
    fi
}
complete -F _microk8s microk8s
