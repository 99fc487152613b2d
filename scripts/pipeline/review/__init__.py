"""The review page of a built folder. `page` writes it; what it shows is from the other modules here.

`rows` looks at every image once, `outlines` traces masks, `pictures` keeps what is made of images, `problems` tells
each kind of problem once, `compare` finds what changed since another version. page.html.j2, page.css and page.js are
put into the page as they are.
"""
