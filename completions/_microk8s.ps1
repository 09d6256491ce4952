# Completions of microk8s for PowerShell 7.3 or newer; `microk8s completions powershell` prints this file.

Register-ArgumentCompleter -Native -CommandName 'microk8s' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { "$_" })
    if ($wordToComplete -eq '') { $words += '' }
    $lines = @(& microk8s __complete @words 2>$null)
    if ($lines.Count -eq 0 -or $lines[0] -in ':files', ':directories') { return }
    foreach ($line in $lines) {
        $value, $about = $line -split "`t", 2
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $about)
    }
}
