"""The playground: a page of `herald dev` on which a newcomer sees what Herald does.

The page is plain HTML, CSS and ES modules, and lies in this folder beside what serves it: `files`
(the page), `deeds` (what the page may have done under `/dev/`), `visitors` (who may ask for
either), `routes` (which path is whose). `herald serve` has none of it.
"""
