# Flatten the YAML that a NoCloud seed is written in: one "path<TAB>value" line
# for each scalar, list items by their number, e.g.
#     ethernets/nic0/addresses/0<TAB>10.0.0.5/24
# Understands block mappings, block lists, one-line [a, b] lists, quotes and
# comments. Not anchors, {} mappings, or text blocks (| and >).

function plain(text) {
    sub(/^[ \t]+/, "", text)
    sub(/[ \t]+$/, "", text)
    if (text ~ /^".*"$/) {
        text = substr(text, 2, length(text) - 2)
        gsub(/\\"/, "\"", text)
        gsub(/\\\\/, "\\", text)
    } else if (text ~ /^'.*'$/) {
        text = substr(text, 2, length(text) - 2)
        gsub(/''/, "'", text)
    } else {
        sub(/[ \t]+#.*$/, "", text)
    }
    return text
}

function path(    level, joined) {
    joined = name[1]
    for (level = 2; level <= depth; level++)
        joined = joined "/" name[level]
    return joined
}

function put(value,    count, i, item) {
    sub(/[ \t]+$/, "", value)
    if (value ~ /^\[.*\]$/) {
        count = split(substr(value, 2, length(value) - 2), item, ",")
        for (i = 1; i <= count; i++)
            print path() "/" (i - 1) "\t" plain(item[i])
    } else if (value != "") {
        print path() "\t" plain(value)
    }
}

{ sub(/\r$/, "") }
/^[ \t]*(#|$)/ || /^---/ { next }
{
    match($0, /^ */)
    column = RLENGTH
    text = substr($0, column + 1)

    # "- " opens an item; what follows it is a value, or a mapping further in.
    while (text ~ /^-( |$)/) {
        while (depth && indent[depth] > column)
            depth--
        if (!(depth && list[depth] && indent[depth] == column)) {
            depth++
            indent[depth] = column
            list[depth] = 1
            name[depth] = -1
        }
        name[depth]++
        text = substr(text, 2)
        match(text, /^ */)
        column += 1 + RLENGTH
        text = substr(text, RLENGTH + 1)
    }

    # "key: value" or "key:", unless the whole is one quoted string.
    colon = match(text, /:([ \t]|$)/)
    if (colon && text !~ /^("([^"\\]|\\.)*"|'([^']|'')*')$/ && text !~ /^\[/) {
        while (depth && indent[depth] >= column)
            depth--
        depth++
        indent[depth] = column
        list[depth] = 0
        name[depth] = plain(substr(text, 1, colon - 1))
        text = substr(text, colon + 1)
        sub(/^[ \t]+/, "", text)
    }
    if (text !~ /^#/)
        put(text)
}
