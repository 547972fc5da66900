"""`python -m config.up`: the same as `manage.py up`."""

import sys

from config.up.supervisor import main

sys.exit(main(sys.argv[1:]))
