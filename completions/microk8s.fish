# Completions of microk8s for fish; `microk8s completions fish` prints this file.

function __microk8s_complete
    set -l words (commandline -opc)
    set -e words[1]
    set -l current (commandline -ct)
    set -l lines (command microk8s __complete $words "$current" 2>/dev/null)
    switch "$lines[1]"
        case :files
            __fish_complete_path "$current"
        case :directories
            __fish_complete_directories "$current"
        case '*'
            string join \n -- $lines
    end
end

complete -c microk8s -f -a '(__microk8s_complete)'
