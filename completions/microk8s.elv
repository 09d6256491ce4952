# Completions of microk8s for elvish; `microk8s completions elvish` prints this file.

use str

set edit:completion:arg-completer[microk8s] = {|@words|
    var lines = [(try { (external microk8s) __complete (all $words[1..]) 2>/dev/null | from-lines } catch { })]
    if (and (> (count $lines) 0) (has-value [:files :directories] $lines[0])) {
        edit:complete-filename $@words
    } else {
        for line $lines {
            var parts = [(str:split &max=2 "\t" $line)]
            edit:complex-candidate $parts[0] &code-suffix=' ' &display=$parts[0]'  ('$parts[-1]')'
        }
    }
}
