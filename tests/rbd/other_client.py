#!/usr/bin/python3 -I
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Another client of a cluster: prints "ready", and keeps the image until its standard input ends. With Debian's Python and
its modules of Ceph. It runs with -I because the test rbd.py, in the same folder, has the name of one of these modules.

    other_client.py CONF POOL IMAGE lock      takes the exclusive lock, and gives it to no other client
    other_client.py CONF POOL IMAGE COUNT     opens the image that many times
"""
import sys

import rados
import rbd

conf, pool, image, what = sys.argv[1:]
with rados.Rados(conffile=conf, name='client.vublk') as cluster, cluster.open_ioctx(pool) as context:
    images = [rbd.Image(context, image) for _ in range(1 if what == 'lock' else int(what))]
    if what == 'lock':
        images[0].lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
    print('ready', flush=True)
    sys.stdin.read()
    for image in images:
        image.close()
