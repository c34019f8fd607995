<?php
// An old program whose code stays as it is: it has a base URL and a token, and no
// connections. Only base_url in pleo.ini was changed.
// Usage: php employees.php [PLEO.INI]

$config = parse_ini_file($argc > 1 ? $argv[1] : __DIR__ . '/pleo.ini');
$context = stream_context_create(array('http' => array(
    'header' => 'Authorization: Bearer ' . $config['token'],
    'ignore_errors' => true,
)));

$after = '';
do {
    $url = $config['base_url'] . '/v2/employees?limit=10' . $after;
    $document = json_decode(file_get_contents($url, false, $context), true);
    if (!isset($document['data'])) {
        // Errors of Pleo and of the proxy have a message.
        fwrite(STDERR, 'Pleo: ' . $document['message'] . "\n");
        exit(1);
    }
    foreach ($document['data'] as $employee) {
        echo $employee['firstName'], ' ', $employee['lastName'], ' <', $employee['email'], ">\n";
    }
    $page = $document['pagination'];
    if ($page['hasNextPage']) {
        $after = '&after=' . urlencode($page['endCursor']);
    }
} while ($page['hasNextPage']);
