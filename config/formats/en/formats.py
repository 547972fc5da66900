"""How moments are written in the admin: sortable, and with the time zone that all of Quiver uses."""

DATE_FORMAT = "Y-m-d"
DATETIME_FORMAT = "Y-m-d H:i \\U\\T\\C"
TIME_FORMAT = "H:i"
