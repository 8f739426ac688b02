"""Where studies are kept: databases that may be away for a while, and the locks that workers share."""
