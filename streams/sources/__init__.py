"""A shop's own files as messages of a topic.

`formats` reads rows as they are, `values` and `times` convert single values, `source_file` turns rows into messages, and
`spool` puts these in order. What was converted, left out or refused on the way is counted in a `Report`.
"""
