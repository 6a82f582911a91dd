# SPDX-License-Identifier: GPL-2.0-or-later
# Completes vmgraft's commands, options and operands in bash.

_vmgraft() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local common="--help --quiet --verbose"
    local -A options=(
        [ps]="--all --json"
        [show]="--json"
        [capture]="--output --forensic --leave-paused --let-run --allow --carry-files --carry-limit --disks --deadline --json"
        [inspect]="--json"
        [verify]=""
        [convert]="--to --output --pid"
        [restore]="--new-pid-namespace --agent-timeout --json"
        [migrate]="--copy --new-pid-namespace --allow --carry-files --carry-limit --disks --deadline --agent-timeout --connect-to --json"
        [agent]="--agent --format --agent-timeout --json"
    )

    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "${!options[*]} help --version --help" -- "$cur")
    elif [ "$command" = help ]; then
        mapfile -t COMPREPLY < <(compgen -W "${!options[*]}" -- "$cur")
    elif [ "$prev" = --to ]; then
        mapfile -t COMPREPLY < <(compgen -W core -- "$cur")
    elif [ "$prev" = --allow ]; then
        # The kinds are those that --help names.
        mapfile -t COMPREPLY < <(compgen -W "$(vmgraft help "$command" 2>/dev/null |
            sed -n '/^What --allow/,/^$/s/^  \([a-z][a-z_-]*\) .*/\1/p')" -- "$cur")
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${options[$command]} $common" -- "$cur")
    elif [ "$command" = agent ] && [ "$COMP_CWORD" = 2 ]; then
        mapfile -t COMPREPLY < <(compgen -W "status install remove release abort" -- "$cur")
    else
        # The colon of qmp:/path is a word break of its own in bash.
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        [[ -z $cur && $command != inspect && $command != verify ]] && COMPREPLY+=("qmp:")
    fi
}
complete -o filenames -F _vmgraft vmgraft
