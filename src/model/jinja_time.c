/* jinja_time.c - strftime in the C locale, for strftime_now: the directives of C99 and of Python,
 * computed from seconds since 1970 without the system's clock, locale or time zone (UTC). */
#include "model/jinja_internal.h"

#include <stdio.h>
#include <string.h>

struct date {
    int64_t year;
    int month, day, hour, minute, second; /* month from 1 */
    int weekday, yearday;                 /* from Sunday 0; from 0 */
    int64_t since_1970;
};

static const char *const weekdays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
static const char *const months[] = {"January",   "February", "March",    "April",
                                     "May",       "June",     "July",     "August",
                                     "September", "October",  "November", "December"};

static bool is_leap(int64_t year) {
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int days_in(int64_t year, int month) {
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month - 1] + (month == 2 && is_leap(year));
}

/* Years 1 to 9999; beyond, the nearest. */
static struct date split(int64_t seconds) {
    seconds = MLXD_MAX(INT64_C(-62135596800), MLXD_MIN(seconds, INT64_C(253402300799)));
    struct date d = {.year = 1970, .month = 1, .since_1970 = seconds};
    int64_t days = seconds / 86400, rest = seconds % 86400;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    d.hour = (int)(rest / 3600);
    d.minute = (int)(rest / 60 % 60);
    d.second = (int)(rest % 60);
    d.weekday = (int)(((days + 4) % 7 + 7) % 7);
    while (days < 0)
        days += is_leap(--d.year) ? 366 : 365;
    while (days >= (is_leap(d.year) ? 366 : 365))
        days -= is_leap(d.year++) ? 366 : 365;
    d.yearday = (int)days;
    while (days >= days_in(d.year, d.month))
        days -= days_in(d.year, d.month++);
    d.day = (int)days + 1;
    return d;
}

/* Week of the year and its year, as ISO 8601 counts. */
static int iso_week(const struct date *d, int64_t *year) {
    int monday = (d->weekday + 6) % 7; /* from Monday 0 */
    int week = (d->yearday - monday + 10) / 7;
    *year = d->year;
    if (week < 1) {
        --*year;
        int last = d->yearday + (is_leap(*year) ? 366 : 365);
        return (last - monday + 10) / 7;
    }
    if (week == 53 && d->yearday - monday + 3 >= (is_leap(d->year) ? 366 : 365)) {
        ++*year;
        return 1;
    }
    return week;
}

static int hour_12(const struct date *d) {
    return d->hour % 12 ? d->hour % 12 : 12;
}

/* One directive; false: not known. `pad` false: %-d. */
static bool format_one(const struct date *d, char c, char *out, size_t size) {
    int64_t year;
    int week = iso_week(d, &year);
    switch (c) {
    case 'a':
        return snprintf(out, size, "%.3s", weekdays[d->weekday]) > 0;
    case 'A':
        return snprintf(out, size, "%s", weekdays[d->weekday]) > 0;
    case 'b':
    case 'h':
        return snprintf(out, size, "%.3s", months[d->month - 1]) > 0;
    case 'B':
        return snprintf(out, size, "%s", months[d->month - 1]) > 0;
    case 'd':
        return snprintf(out, size, "%02d", d->day) > 0;
    case 'e':
        return snprintf(out, size, "%2d", d->day) > 0;
    case 'f':
        return snprintf(out, size, "000000") > 0;
    case 'G':
        return snprintf(out, size, "%lld", (long long)year) > 0;
    case 'H':
        return snprintf(out, size, "%02d", d->hour) > 0;
    case 'I':
        return snprintf(out, size, "%02d", hour_12(d)) > 0;
    case 'j':
        return snprintf(out, size, "%03d", d->yearday + 1) > 0;
    case 'm':
        return snprintf(out, size, "%02d", d->month) > 0;
    case 'M':
        return snprintf(out, size, "%02d", d->minute) > 0;
    case 'p':
        return snprintf(out, size, "%s", d->hour < 12 ? "AM" : "PM") > 0;
    case 's':
        return snprintf(out, size, "%lld", (long long)d->since_1970) > 0;
    case 'S':
        return snprintf(out, size, "%02d", d->second) > 0;
    case 'u':
        return snprintf(out, size, "%d", d->weekday ? d->weekday : 7) > 0;
    case 'U':
        return snprintf(out, size, "%02d", (d->yearday + 7 - d->weekday) / 7) > 0;
    case 'V':
        return snprintf(out, size, "%02d", week) > 0;
    case 'w':
        return snprintf(out, size, "%d", d->weekday) > 0;
    case 'W':
        return snprintf(out, size, "%02d", (d->yearday + 7 - (d->weekday + 6) % 7) / 7) > 0;
    case 'y':
        return snprintf(out, size, "%02d", (int)(d->year % 100)) > 0;
    case 'Y':
        return snprintf(out, size, "%lld", (long long)d->year) > 0;
    default:
        return false;
    }
}

/* Directives that stand for others. */
static const char *expand(char c) {
    switch (c) {
    case 'c':
        return "%a %b %e %H:%M:%S %Y";
    case 'D':
    case 'x':
        return "%m/%d/%y";
    case 'F':
        return "%Y-%m-%d";
    case 'r':
        return "%I:%M:%S %p";
    case 'R':
        return "%H:%M";
    case 'T':
    case 'X':
        return "%H:%M:%S";
    case 'z': /* as for a time without zone */
    case 'Z':
        return "";
    case 'n':
        return "\n";
    case 't':
        return "\t";
    default:
        return NULL;
    }
}

static bool put_date(builder *b, mlxd_slice format, const struct date *d) {
    char text[64];
    for (size_t i = 0; i < format.len && mlxd_jinja_step(b->r, 1); i++) {
        if (format.data[i] != '%') {
            mlxd_jinja_put(b, &format.data[i], 1, true);
            continue;
        }
        bool bare = i + 1 < format.len && format.data[i + 1] == '-'; /* %-d: without zeros */
        i += bare ? 2 : 1;
        char c = i < format.len ? (char)format.data[i] : '%';
        const char *longer = expand(c);
        if (c == '%') {
            mlxd_jinja_put_str(b, "%");
        } else if (longer) {
            if (!put_date(b, mlxd_slice_str(longer), d))
                return false;
        } else if (!format_one(d, c, text, sizeof text)) {
            return false;
        } else {
            const char *s = text;
            while (bare && (*s == '0' || *s == ' ') && s[1])
                s++;
            mlxd_jinja_put_str(b, s);
        }
    }
    return true;
}

bool mlxd_jinja_strftime(builder *b, mlxd_slice format, int64_t now_s) {
    const struct date d = split(now_s);
    return put_date(b, format, &d);
}
